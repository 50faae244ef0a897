//! Project Wycheproof's cases for signatures, through our keys: what a
//! credential, a trust set or a proof of possession is verified by. The vectors
//! come with the crate `wycheproof`.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use fairway_identity::VerifyingKey;
use wycheproof::{TestResult, ecdsa, eddsa};

#[test]
fn ed25519() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut tally = Tally::default();
    for group in &set.test_groups {
        let key = VerifyingKey::Ed25519(group.key.pk[..].try_into().unwrap());
        for case in &group.tests {
            let verified = read(&key).is_some_and(|key| key.verify(&case.msg, &case.sig));
            tally.count(case.tc_id, &case.result, verified);
        }
    }
    tally.check(88, 63);
}

/// With fixed-length signatures (IEEE P1363, as COSE has them).
#[test]
fn ecdsa_p256() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut tally = Tally::default();
    for group in &set.test_groups {
        let key = VerifyingKey::P256(group.key.key[..].try_into().unwrap());
        for case in &group.tests {
            let verified = read(&key).is_some_and(|key| key.verify(&case.msg, &case.sig));
            tally.count(case.tc_id, &case.result, verified);
        }
    }
    tally.check(173, 89);
}

/// The key as it comes in: by its COSE_Key.
fn read(key: &VerifyingKey) -> Option<VerifyingKey> {
    VerifyingKey::from_cose_key(&key.to_cose_key()).ok()
}

#[derive(Default)]
struct Tally {
    verified: usize,
    refused: usize,
}

impl Tally {
    fn count(&mut self, case: usize, result: &TestResult, verified: bool) {
        match result {
            TestResult::Valid => assert!(verified, "case {case} is good"),
            TestResult::Invalid => assert!(!verified, "case {case} is not"),
            TestResult::Acceptable => panic!("case {case} is neither: decide"),
        }
        match verified {
            true => self.verified += 1,
            false => self.refused += 1,
        }
    }

    fn check(&self, verified: usize, refused: usize) {
        assert!(self.verified >= verified, "only {} verified", self.verified);
        assert!(self.refused >= refused, "only {} refused", self.refused);
    }
}
