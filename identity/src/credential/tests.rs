use proptest::prelude::*;

use ciborium::Value;

use super::codec::confirmation;
use super::*;
use crate::name::{AccountName, TrustDomain};
use crate::testing::{self, device, issuer, label, workload};

const FORMS: [Form; 2] = [Form::Full, Form::Lean];

fn claimed(bytes: &[u8], form: Form) -> Option<CredentialClaims> {
    read(bytes, form).ok().map(|(claims, _)| claims)
}

/// The largest claims that pass the bounds, of both kinds.
fn largest() -> [CredentialClaims; 2] {
    let name = || Label::new(&"n".repeat(limits::LABEL_LEN)).unwrap();
    let trust_domain = TrustDomain::new(&"t".repeat(limits::TRUST_DOMAIN_LEN)).unwrap();
    let base = CredentialClaims {
        uid: Uid::new(&"u".repeat(limits::UID_LEN)).unwrap(),
        not_before: UnixSeconds(i64::MAX.unsigned_abs() - limits::CREDENTIAL_SECONDS),
        issued_at: UnixSeconds(i64::MAX.unsigned_abs()),
        expires: UnixSeconds(i64::MAX.unsigned_abs()),
        ..device()
    };
    let attribute_len = limits::ATTRIBUTES_BYTES / limits::ATTRIBUTES - 1;
    let attributes = (0..limits::ATTRIBUTES)
        .map(|n| {
            (
                format!("{n:0>width$}", width = attribute_len),
                "v".to_owned(),
            )
        })
        .collect();
    let service_len = limits::SERVICES_BYTES / limits::SERVICES;
    let services = (0..limits::SERVICES)
        .map(|n| label(&format!("{n:0>width$}", width = service_len)))
        .collect();
    let account = AccountName::new(&"a".repeat(limits::ACCOUNT_NAME_LEN)).unwrap();
    [
        CredentialClaims {
            id: SpiffeId::device(trust_domain.clone(), name(), name()),
            attributes,
            ..base.clone()
        },
        CredentialClaims {
            id: SpiffeId::workload(trust_domain, name(), account),
            attributes: BTreeMap::new(),
            services,
            pod: Some(name()),
            ..base
        },
    ]
}

#[test]
fn the_largest_allowed_claims_fit() {
    for claims in largest() {
        for form in FORMS {
            let bytes = issue(&claims, form, &issuer()).unwrap();
            assert!(bytes.len() <= limits::CREDENTIAL_BYTES, "{}", bytes.len());
        }
        assert_eq!(claimed(&testing::issue(&claims), Form::Full), Some(claims));
    }
}

#[test]
fn a_usual_credential_is_small() {
    assert!(
        testing::issue(&device()).len() < 360,
        "{}",
        testing::issue(&device()).len()
    );
}

#[test]
fn what_is_issued_is_what_is_read() {
    for claims in [device(), workload()] {
        assert_eq!(
            claimed(&testing::issue(&claims), Form::Full),
            Some(claims.clone())
        );
        let lean = issue(&claims, Form::Lean, &issuer()).unwrap();
        let bare = CredentialClaims {
            attributes: BTreeMap::new(),
            services: Vec::new(),
            pod: None,
            ..claims
        };
        assert_eq!(claimed(&lean, Form::Lean), Some(bare));
        assert_eq!(
            claimed(&lean, Form::Full),
            None,
            "lean never passes for full"
        );
    }
}

#[test]
fn the_lean_form_tells_no_attributes() {
    let lean = issue(&device(), Form::Lean, &issuer()).unwrap();
    let contains = |word: &str| lean.windows(word.len()).any(|w| w == word.as_bytes());
    assert!(contains("pump-7"));
    assert!(!contains("oslo") && !contains("model"));
}

#[test]
fn claims_beyond_the_bounds_are_not_issued() {
    let attribute = |key: &str, value: &str| CredentialClaims {
        attributes: [(key.to_owned(), value.to_owned())].into(),
        ..device()
    };
    let many = |n: usize, len: usize| CredentialClaims {
        attributes: (0..n).map(|n| (n.to_string(), "v".repeat(len))).collect(),
        ..device()
    };
    let services = |n: usize| CredentialClaims {
        services: (0..n).map(|n| label(&format!("s{n}"))).collect(),
        ..workload()
    };
    let long = label(&"x".repeat(63));
    for (claims, why) in [
        (attribute("", "v"), "empty key"),
        (attribute(&"k".repeat(33), "v"), "long key"),
        (attribute("k", &"v".repeat(64)), "long value"),
        (attribute("k", "v\n"), "control character"),
        (attribute("ä", "v"), "not ASCII"),
        (many(17, 1), "17 attributes"),
        (many(7, 60), "attributes too long together"),
        (services(17), "17 services"),
        (
            CredentialClaims {
                services: vec![long; 7],
                ..workload()
            },
            "services too long",
        ),
        (
            CredentialClaims {
                services: vec![label("a")],
                ..device()
            },
            "device with services",
        ),
        (
            CredentialClaims {
                pod: Some(label("a")),
                ..device()
            },
            "device with pod",
        ),
        (
            CredentialClaims {
                attributes: device().attributes,
                ..workload()
            },
            "workload with attributes",
        ),
        (
            CredentialClaims {
                expires: device().not_before,
                ..device()
            },
            "no lifetime",
        ),
        (
            CredentialClaims {
                not_before: UnixSeconds(0),
                ..device()
            },
            "longer than any credential",
        ),
        (
            CredentialClaims {
                expires: UnixSeconds(u64::MAX),
                ..device()
            },
            "end of time",
        ),
    ] {
        let issued = issue(&claims, Form::Full, &issuer());
        assert!(
            matches!(issued, Err(IssueError::Bound { .. })),
            "{why}: {issued:?}"
        );
    }
    let issued = issue(&device(), Form::Full, &testing::stranger());
    assert!(matches!(issued, Err(IssueError::WrongKey)), "{issued:?}");
}

#[test]
fn services_that_do_not_fit_are_named() {
    let names = |n: usize, len: usize| (0..n).map(move |n| label(&format!("{n:0>len$}")));
    for (given, taken) in [
        (names(0, 1), 0),
        (names(16, 25), 16),
        (names(17, 10), 16),
        (names(16, 63), 6),
    ] {
        let all = given.len();
        let (fit, left_out) = fitting_services(given);
        assert_eq!((fit.len(), left_out.len()), (taken, all - taken));
        let claims = CredentialClaims {
            services: fit,
            ..workload()
        };
        assert!(issue(&claims, Form::Full, &issuer()).is_ok());
    }
    let (fit, _) = fitting_services(["b", "a", "b"].map(label));
    assert_eq!(fit, ["a", "b"].map(label), "in order, once");
}

/// Signs whatever claims `change` makes of a good credential's.
fn forge(form: Form, change: impl Fn(&mut Vec<(Value, Value)>)) -> Vec<u8> {
    let Value::Map(mut entries) = to_cbor(&workload(), form) else {
        unreachable!()
    };
    change(&mut entries);
    let payload = cbor::encode(Value::Map(entries));
    cose::seal(Kind::Credential(form), payload, &issuer()).unwrap()
}

fn set(entries: &mut Vec<(Value, Value)>, key: Value, value: Value) {
    entries.retain(|(known, _)| *known != key);
    entries.push((key, value));
}

#[test]
fn signed_nonsense_is_still_malformed() {
    let int = |n: i64| Value::Integer(n.into());
    let text = |text: &str| Value::Text(text.to_owned());
    assert!(claimed(&forge(Form::Full, |_| {}), Form::Full).is_some());
    let cases = [
        (int(1), text("not hex"), "issuer"),
        (int(1), int(1), "issuer of another type"),
        (int(2), text("spiffe://TD/ns/a/sa/b"), "subject"),
        (
            int(2),
            text("https://example.com"),
            "subject that is no SPIFFE ID",
        ),
        (int(3), text("somebody"), "audience"),
        (int(4), int(-1), "negative expiry"),
        (int(4), text("tomorrow"), "expiry in text"),
        (int(7), Value::Bytes(vec![0; 15]), "short serial"),
        (int(8), Value::Map(vec![]), "empty confirmation"),
        (
            int(8),
            confirmation(&[0; 32]).as_map().unwrap()[0].1.clone(),
            "bare COSE_Key",
        ),
        (text("uid"), text(""), "empty UID"),
        (
            text("att"),
            Value::Map(vec![(text("a"), text("b"))]),
            "attributes of a workload",
        ),
        (
            text("svc"),
            Value::Array(vec![text("Upper")]),
            "Service name",
        ),
        (text("svc"), text("collector"), "Services in text"),
        (text("pod"), text("a.b"), "pod name"),
    ];
    for (key, value, why) in cases {
        let bytes = forge(Form::Full, |entries| {
            set(entries, key.clone(), value.clone())
        });
        assert_eq!(claimed(&bytes, Form::Full), None, "{why}");
    }
    for key in [
        int(1),
        int(2),
        int(4),
        int(5),
        int(6),
        int(7),
        int(8),
        text("uid"),
    ] {
        let bytes = forge(Form::Full, |entries| {
            entries.retain(|(known, _)| *known != key)
        });
        assert_eq!(claimed(&bytes, Form::Full), None, "without {key:?}");
    }
    let bytes = forge(Form::Lean, |entries| {
        set(entries, text("svc"), Value::Array(vec![text("collector")]));
    });
    assert_eq!(claimed(&bytes, Form::Lean), None, "lean with Services");
}

#[test]
fn a_claim_twice_is_malformed() {
    let twice = forge(Form::Full, |entries| {
        let subject = entries
            .iter()
            .find(|(key, _)| *key == cbor::uint(2))
            .unwrap()
            .clone();
        entries.push(subject);
    });
    assert_eq!(claimed(&twice, Form::Full), None);
}

#[test]
fn later_versions_may_add_claims() {
    let more = forge(Form::Full, |entries| {
        set(entries, Value::Text("hw".into()), Value::Bool(true));
    });
    assert_eq!(claimed(&more, Form::Full), Some(workload()));
}

proptest! {
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        for form in FORMS {
            prop_assert!(claimed(&bytes, form).is_none());
        }
    }

    #[test]
    fn garbage_inside_a_signed_envelope_is_survived(
        payload in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        for form in FORMS {
            if let Ok(bytes) = cose::seal(Kind::Credential(form), payload.clone(), &issuer()) {
                prop_assert!(claimed(&bytes, form).is_none());
            }
        }
    }

    #[test]
    fn any_claims_within_the_bounds_round_trip(
        attributes in proptest::collection::btree_map("[a-z]{1,12}", "[ -~]{0,12}", 0..16),
        serial in any::<[u8; 16]>(),
        key in any::<[u8; 32]>(),
        issued_at in 0_u64..4_000_000_000,
    ) {
        let claims = CredentialClaims {
            attributes,
            serial: Serial(serial),
            handshake_key: key,
            issued_at: UnixSeconds(issued_at),
            not_before: UnixSeconds(issued_at),
            expires: UnixSeconds(issued_at + 1),
            ..device()
        };
        prop_assert_eq!(claimed(&testing::issue(&claims), Form::Full), Some(claims));
    }
}
