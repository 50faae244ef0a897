//! Project Wycheproof's cases for X25519 and AES-256-GCM, through the code that
//! handshake and records use. (ChaCha20-Poly1305 has none: suite 2 is only
//! reserved.) The vectors come with the crate `wycheproof`.

use ::wycheproof::{TestResult, aead, xdh};
use snow::params::{CipherChoice, DHChoice};
use snow::resolvers::CryptoResolver as _;

use crate::crypto;

#[test]
fn x25519() {
    let resolver = crypto::Resolver::new(&[0; 32]);
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let (mut shared_secrets, mut refused) = (0, 0);
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut dh = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&case.private_key);
        let mut out = [0; 56];
        let answer = dh.dh(&case.public_key, &mut out);
        // A point of small order is "acceptable" to RFC 7748, and not to us. So
        // is a secret of zero by any other way.
        let zero = case.shared_secret.iter().all(|&byte| byte == 0);
        if zero || case.result == TestResult::Invalid {
            assert!(answer.is_err(), "case {}: {}", case.tc_id, case.comment);
            refused += 1;
        } else {
            answer.unwrap_or_else(|error| panic!("case {}: {error}", case.tc_id));
            assert_eq!(out[..32], case.shared_secret[..], "case {}", case.tc_id);
            shared_secrets += 1;
        }
    }
    assert!(
        shared_secrets > 400 && refused > 20,
        "{shared_secrets} and {refused}"
    );
}

#[test]
fn aes_256_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for group in &set.test_groups {
        // What our code can be given at all: keys of 32 bytes, nonces of 12, tags of 16.
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for case in &group.tests {
            let key = crypto::Aes256Gcm::new(case.key[..].try_into().unwrap());
            let nonce = case.nonce[..].try_into().unwrap();
            let mut sealed = [&case.ct[..], &case.tag].concat();
            let answer = key.open(nonce, &case.aad, &mut sealed);
            match case.result {
                TestResult::Valid | TestResult::Acceptable => {
                    assert_eq!(answer.unwrap(), &case.pt[..], "case {}", case.tc_id);
                    let mut out = vec![0; case.pt.len() + 16];
                    let (front, back) = case.pt.split_at(case.pt.len() / 3);
                    key.seal(nonce, &case.aad, [front, back], &mut out);
                    assert_eq!(out, [&case.ct[..], &case.tag].concat());
                    handshake_cipher(case);
                    opened += 1;
                }
                TestResult::Invalid => {
                    assert!(answer.is_err(), "case {}: {}", case.tc_id, case.comment);
                    refused += 1;
                }
            }
        }
    }
    assert!(opened > 30 && refused > 20, "{opened} and {refused}");
}

/// The same by the cipher of the handshake, where the nonce can be one of its own.
fn handshake_cipher(case: &aead::Test) {
    let Some(counter) = case.nonce.strip_prefix(&[0; 4]) else {
        return;
    };
    let counter = u64::from_be_bytes(counter.try_into().unwrap());
    let resolver = crypto::Resolver::new(&[0; 32]);
    let mut cipher = resolver.resolve_cipher(&CipherChoice::AESGCM).unwrap();
    cipher.set(case.key[..].try_into().unwrap());
    let mut out = vec![0; case.pt.len() + 16];
    cipher.encrypt(counter, &case.aad, &case.pt, &mut out);
    assert_eq!(out, [&case.ct[..], &case.tag].concat());
}
