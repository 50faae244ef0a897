//! Credentials, trust sets, signed time, tickets, names.

use fairway_identity::{
    Address, Clock, Destination, Form, HostPort, RelayAddress, RootHash, SignedTime, Signer as _,
    SpiffeId, Ticket, Uid, VerifiedTrustSet, VerifyingKey,
};

use crate::Script;
use crate::world::{self, NOW};

const KEY: [u8; 32] = [42; 32];

/// A genuine signature over any payload, as either form of credential: whoever
/// comes out of it is of our domain, and answers to nothing of another one's.
pub(crate) fn credential(data: &[u8]) {
    let mut script = Script::new(data);
    let lean = script.byte() & 1 == 1;
    let (form, typ) = match lean {
        true => (Form::Lean, "fairway-lean"),
        false => (Form::Full, "fairway-credential"),
    };
    let bytes = world::signed(typ, script.rest(), &world::issuer());
    let trust = world::trust();
    for clock in [Clock::Trusted(NOW), Clock::Floor(NOW)] {
        let _ = trust.verify_genuine(&bytes, form, &KEY, clock);
        let Ok(peer) = trust.verify_credential(&bytes, form, &KEY, clock) else {
            continue;
        };
        assert_eq!(peer.id().trust_domain, trust.trust_set().trust_domain);
        assert_eq!(peer.handshake_key(), &KEY);
        assert!(peer.expires() > NOW);
        assert!(bytes.len() <= 1024);
    }
    let other = match form {
        Form::Lean => Form::Full,
        Form::Full => Form::Lean,
    };
    let verified = trust.verify_credential(&bytes, other, &KEY, Clock::Trusted(NOW));
    assert!(verified.is_err(), "one form passed for the other");
}

/// A genuine signature of the root over any payload.
pub(crate) fn trust_set(data: &[u8]) {
    let bytes = world::signed("fairway-trust-set", data, &world::root());
    if let Ok(set) = VerifiedTrustSet::verify(&bytes, &world::pin(), 3) {
        assert!(set.version() >= 3);
        assert_eq!(set.bytes(), bytes);
    }
    let elsewhere = RootHash::of(&world::issuer().verifying_key());
    assert!(VerifiedTrustSet::verify(&bytes, &elsewhere, 0).is_err());
}

/// A genuine signature of the issuer over any payload as the time.
pub(crate) fn signed_time(data: &[u8]) {
    let bytes = world::signed("fairway-time", data, &world::issuer());
    let trust = world::trust();
    if let Ok(time) = SignedTime::verify(&bytes, &[7; 16], &trust) {
        let issuer = &trust.trust_set().issuers[0];
        assert!(issuer.not_before <= time && time < issuer.expires);
    }
}

/// Any bytes as every signed object. What nobody signed is never believed.
pub(crate) fn signed_objects(data: &[u8]) {
    let trust = world::trust();
    let _ = VerifiedTrustSet::claimed_root(data);
    if let Ok(set) = VerifiedTrustSet::verify(data, &world::pin(), 0) {
        assert_eq!(set.trust_set(), &world::trust_set());
    }
    for form in [Form::Lean, Form::Full] {
        let _ = trust.verify_genuine(data, form, &KEY, Clock::Trusted(NOW));
    }
    let _ = SignedTime::verify(data, &[7; 16], &trust);
    if let Ok(key) = VerifyingKey::from_cose_key(data) {
        assert_eq!(key.to_cose_key(), data, "a key has one encoding");
        assert!(!key.verify(b"message", &[0; 64]));
    }
}

/// A line that somebody pasted. One that is read has one way to be written.
pub(crate) fn ticket(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    if let Ok(ticket) = text.parse::<Ticket>() {
        let written = ticket.to_string();
        let again: Ticket = written.parse().unwrap();
        assert_eq!(again.to_string(), written);
        assert!(ticket.resource_name().starts_with(ticket.device().as_str()));
    }
}

/// Every name and number that is written as text.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    fn same<T: core::str::FromStr + ToString>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            let written = value.to_string();
            let Ok(again) = written.parse::<T>() else {
                panic!("{text:?} is read, and {written:?}, which it is written as, is not");
            };
            assert_eq!(again.to_string(), written, "of {text:?}");
        }
    }
    same::<SpiffeId>(text);
    same::<Address>(text);
    same::<Destination>(text);
    same::<HostPort>(text);
    same::<RelayAddress>(text);
    same::<VerifyingKey>(text);
    same::<RootHash>(text);
    let _ = Uid::new(text);
}
