//! Makes credentials: lifetimes, both forms, the newest trust set beside them.

use std::collections::BTreeMap;

use fairway_control::authority::Issued;
use fairway_identity::{
    CredentialClaims, Form, IssueError, Label, Serial, SpiffeId, Uid, UnixSeconds, issue,
};

use crate::keys::KeyRing;

/// Lifetime of a workload's credential, and of the front's: 4 h.
pub const WORKLOAD_SECONDS: u64 = 4 * 3600;

/// A workload renews hourly, so that it notices nothing of an outage of the
/// authority of up to 3 h.
pub const WORKLOAD_RENEW_SECONDS: u64 = 3600;

/// `nbf` lies this far back: the clocks of two honest nodes differ.
const BACKDATE_SECONDS: u64 = 60;

/// The renewal point moves forward by up to a tenth of the way, at random, so
/// that endpoints that started together do not renew together for ever.
const RENEW_JITTER_PART: u64 = 10;

/// Whom a credential is for, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose it is.
    pub id: SpiffeId,
    /// UID of the object behind it.
    pub uid: Uid,
    /// Attributes of a device.
    pub attributes: BTreeMap<String, String>,
    /// Services that a pod backs.
    pub services: Vec<Label>,
    /// Name of the pod, where it can be dialled by it.
    pub pod: Option<Label>,
    /// Seconds until it ends.
    pub lifetime: u64,
    /// Seconds until it is renewed.
    pub renew_after: u64,
}

/// A credential that was made, and what the authority remembers of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The answer to the caller.
    pub issued: Issued,
    /// Its serial.
    pub serial: Serial,
    /// When it was made.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires: UnixSeconds,
}

/// Randomness for one credential.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    /// The serial.
    pub serial: [u8; 16],
    /// Any number, for jitter.
    pub jitter: u64,
}

/// Why no credential was made.
#[derive(Debug, thiserror::Error)]
pub enum IssueFailure {
    /// No issuer may sign at this time.
    #[error("no issuer may sign now; the authority's clock or its Secret of issuers is wrong")]
    NoIssuer,
    /// The claims break a bound, or the key did not sign.
    #[error("the claims do not make a credential")]
    Claims(#[from] IssueError),
}

/// Makes a credential for `handshake_key`, in both forms.
///
/// # Errors
/// No issuer may sign now, or the claims break a bound of `identity`.
pub fn make(
    ring: &KeyRing,
    subject: &Subject,
    handshake_key: [u8; 32],
    now: UnixSeconds,
    dice: Dice,
) -> Result<Made, IssueFailure> {
    let issuer = ring.issuer(now).ok_or(IssueFailure::NoIssuer)?;
    let expires = now.plus(subject.lifetime).min(issuer.expires);
    let serial = Serial(dice.serial);
    let claims = CredentialClaims {
        issuer: issuer.id,
        id: subject.id.clone(),
        handshake_key,
        not_before: now.minus(BACKDATE_SECONDS).max(issuer.not_before),
        expires,
        issued_at: now,
        serial,
        uid: subject.uid.clone(),
        attributes: subject.attributes.clone(),
        services: subject.services.clone(),
        pod: subject.pod.clone(),
    };
    let issued = Issued {
        lean: issue(&claims, Form::Lean, issuer.key)?,
        full: issue(&claims, Form::Full, issuer.key)?,
        trust_set: ring.trust().bytes().to_vec(),
        renew_at: renew_at(now, expires, subject.renew_after, dice.jitter),
        expires,
    };
    Ok(Made {
        issued,
        serial,
        issued_at: now,
        expires,
    })
}

/// The renewal point, moved forward by jitter, and always before the end.
fn renew_at(now: UnixSeconds, expires: UnixSeconds, after: u64, jitter: u64) -> UnixSeconds {
    let earliest = after - after / RENEW_JITTER_PART;
    let spread = jitter % (after / RENEW_JITTER_PART + 1);
    let half = UnixSeconds(now.0 + expires.since(now) / 2);
    now.plus(earliest + spread).min(half.max(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRing;
    use crate::testing;
    use fairway_identity::{Clock, TrustDomain};

    const START: UnixSeconds = testing::START;
    const KEY: [u8; 32] = [9; 32];

    fn workload() -> Subject {
        Subject {
            id: "spiffe://fairway.local/ns/factory/sa/collector"
                .parse()
                .unwrap(),
            uid: Uid::new("2c9f4f8e-0000-4000-8000-000000000001").unwrap(),
            attributes: BTreeMap::new(),
            services: vec![Label::new("collector").unwrap()],
            pod: None,
            lifetime: WORKLOAD_SECONDS,
            renew_after: WORKLOAD_RENEW_SECONDS,
        }
    }

    fn make_at(ring: &KeyRing, now: UnixSeconds, jitter: u64) -> Made {
        make(
            ring,
            &workload(),
            KEY,
            now,
            Dice {
                serial: [3; 16],
                jitter,
            },
        )
        .unwrap()
    }

    #[test]
    fn both_forms_verify_and_say_the_same_person() {
        let ring = testing::ring();
        let made = make_at(&ring, START, 0);
        for (form, bytes) in [
            (Form::Full, &made.issued.full),
            (Form::Lean, &made.issued.lean),
        ] {
            let peer = ring
                .trust()
                .verify_credential(bytes, form, &KEY, Clock::Trusted(START))
                .unwrap();
            assert_eq!(peer.id(), &workload().id);
            assert_eq!(
                peer.id().trust_domain,
                TrustDomain::new("fairway.local").unwrap()
            );
            assert_eq!(peer.expires(), START.plus(4 * 3600));
            assert_eq!(peer.services().is_empty(), form == Form::Lean);
        }
    }

    #[test]
    fn renewal_is_hourly_with_jitter_and_never_late() {
        let ring = testing::ring();
        for jitter in [0, 1, 359, 360, 361, u64::MAX] {
            let made = make_at(&ring, START, jitter);
            let after = made.issued.renew_at.since(START);
            assert!((3240..=3600).contains(&after), "jitter {jitter}: {after}");
        }
    }

    #[test]
    fn a_short_credential_is_renewed_at_half_life() {
        assert_eq!(renew_at(START, START.plus(600), 3600, 0), START.plus(300));
        assert_eq!(renew_at(START, START, 0, 5), START);
    }

    #[test]
    fn no_credential_outlives_its_issuer() {
        let ring = testing::ring();
        let end = ring.issuer(START).unwrap().expires;
        assert_eq!(make_at(&ring, end.minus(60), 0).expires, end);
        let late = make(
            &ring,
            &workload(),
            KEY,
            end,
            Dice {
                serial: [3; 16],
                jitter: 0,
            },
        );
        assert!(matches!(late, Err(IssueFailure::NoIssuer)));
    }
}
