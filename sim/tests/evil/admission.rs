//! session/SPEC.md sections 1 to 5 over identity/SPEC.md sections 2 to 4: who
//! is let in, and what for.

use coset::{CoseSign1, CoseSign1Builder, Header, HeaderBuilder, TaggedCborSerializable, iana};
use fairway_identity::{CredentialClaims, Form, IssuerId, SignedTime, Signer, UnixSeconds, issue};
use fairway_policy::{Door, Protocol};
use fairway_session::Time;
use fairway_sim::authority::{Authority, START, label};

use crate::scene::{Case, EVIL, Ends, Scene, at, broker, case, header, hello, pump, run};
use crate::wire::{long, port, text};

const REFUSED: Ends = Ends::Closes("credential-refused");
const MALFORMED: Ends = Ends::Closes("malformed");
const MISMATCH: Ends = Ends::Closes("name-mismatch");

/// The evil peer dials, and shows this in message 3.
macro_rules! shows {
    ($name:literal, |$scene:ident| $hello:expr, $ends:expr) => {
        case(
            $name,
            |$scene| {
                let hello = $hello;
                $scene.handshake(|plan| plan.hello = hello);
            },
            $ends,
        )
        .fresh()
    };
}

/// The evil peer answers, and shows this in message 2.
macro_rules! answers {
    ($name:literal, |$scene:ident| $hello:expr, $ends:expr) => {
        shows!($name, |$scene| $hello, $ends).answering()
    };
}

/// The evil peer answers, and shows this in the HELLO frame.
macro_rules! answers_last {
    ($name:literal, |$scene:ident| $hello:expr, $ends:expr) => {
        case(
            $name,
            |$scene| {
                let hello = $hello;
                $scene.handshake(|plan| plan.last_hello = hello);
            },
            $ends,
        )
        .fresh()
        .answering()
    };
}

/// A record of these frames.
macro_rules! says {
    ($name:literal, $text:expr, $ends:expr) => {
        case($name, |s| s.say($text), $ends)
    };
}

/// A record with a datagram that the victim's owner never gets.
macro_rules! unseen {
    ($name:literal, $text:expr) => {
        case(
            $name,
            |s| {
                s.say($text);
                assert_eq!(s.datagrams(), 0);
            },
            Ends::Goes,
        )
    };
}

/// A stream with this OPEN header.
macro_rules! opens {
    ($name:literal, $header:expr, $ends:expr) => {
        case($name, |s| s.say(text().open(0, $header)), $ends)
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- section 1: the name and the purpose
    case("a name that the victim does not have", |s| dialled(s, 0, "other.factory.svc.fairway.internal"), MISMATCH).fresh(),
    case("a name in another namespace", |s| dialled(s, 0, "broker.office.svc.fairway.internal"), MISMATCH).fresh(),
    case("a device's name", |s| dialled(s, 0, "broker.factory.device.fairway.internal"), MISMATCH).fresh(),
    case("the authority's name", |s| dialled(s, 2, "authority.fairway.internal"), MISMATCH).fresh(),
    case("a relay's name", |s| dialled(s, 1, "relay.fairway.internal"), MISMATCH).fresh(),
    case("no name of Fairway's", |s| dialled(s, 0, "broker"), MISMATCH).fresh(),
    case("a name with a zero in it", |s| dialled(s, 0, "broker\0.factory.svc.fairway.internal"), MISMATCH).fresh(),
    case("the purpose of a relay for a Service", |s| dialled(s, 1, crate::scene::NAME), MALFORMED).fresh(),
    case("a purpose that is none", |s| dialled(s, 255, crate::scene::NAME), MALFORMED).fresh(),
    // --- section 2: the hello
    shows!("no hello", |s| { let _ = s; vec![] }, MALFORMED),
    shows!("a hello that is an array", |s| { let _ = s; vec![0x80] }, MALFORMED),
    shows!("a hello of random bytes", |s| { let _ = s; vec![0x9f; 50] }, MALFORMED),
    shows!("a hello cut by a byte", |s| changed(s, |hello| hello.truncate(hello.len() - 1)), MALFORMED),
    shows!("a hello and a byte", |s| changed(s, |hello| hello.push(0)), MALFORMED),
    shows!("a hello without an instance", |s| changed(s, |hello| { hello[0] -= 1; hello.truncate(hello.len() - 18) }), MALFORMED),
    shows!("an instance of 15 bytes", |s| changed(s, |hello| { hello.pop(); let at = hello.len() - 16; hello[at] = 0x4f }), MALFORMED),
    shows!("an instance of 17 bytes", |s| changed(s, |hello| { hello.push(9); let at = hello.len() - 18; hello[at] = 0x51 }), MALFORMED),
    shows!("a credential that is text", |s| changed(s, |hello| hello[2] = 0x79), MALFORMED),
    shows!("a field that nobody knows is skipped", |s| changed(s, |hello| { hello[0] += 1; hello.extend([9, 9]) }), Ends::Goes),
    // --- section 3: the dialler's credential
    shows!("no credential", |s| { let _ = s; hello(None, None, EVIL) }, Ends::Closes("credential-required")),
    shows!("an empty credential", |s| { let _ = s; hello(Some(b""), None, EVIL) }, REFUSED),
    shows!("an expired credential", |s| claiming(s, |_, c| c.expires = START), Ends::Closes("credential-expired")),
    shows!("a credential of the future", |s| claiming(s, |_, c| {
        c.not_before = START.plus(600);
        c.issued_at = START.plus(600);
    }), REFUSED),
    shows!("a credential that was issued in the future", |s| claiming(s, |_, c| c.issued_at = START.plus(100_000_000).minus(1)), REFUSED),
    shows!("another's credential", |s| { let claims = s.claims(9); s.hellos(&claims).0 }, REFUSED),
    shows!("the credential of the victim itself", |s| {
        let claims = broker(&mut s.authority, "mosquitto", 8);
        s.hellos(&claims).0
    }, REFUSED),
    shows!("a credential of another trust domain", |s| claiming(s, |_, c| {
        c.id = Authority::new("other.local", 3).device("factory", "pump-7");
    }), REFUSED),
    shows!("a lean credential where the full one belongs", |s| {
        let claims = s.claims(EVIL);
        let [lean, _] = s.authority.issue(&claims);
        hello(Some(&lean), None, EVIL)
    }, REFUSED),
    shows!("a foreign installation's credential", |s| {
        let mut other = Authority::new("fairway.local", 99);
        other.rotate_issuer();
        let claims = pump(&mut other, "pump-7", EVIL);
        let [_, full] = other.issue(&claims);
        let _ = s;
        hello(Some(&full), None, EVIL)
    }, REFUSED),
    shows!("a credential that its holder has signed", |s| {
        let own = fairway_identity::Ed25519Key::from_seed([EVIL; 32]);
        let mut claims = s.claims(EVIL);
        claims.issuer = IssuerId::of(&own.verifying_key());
        hello(Some(&issue(&claims, Form::Full, &own).unwrap()), None, EVIL)
    }, REFUSED),
    shows!("the right issuer's name under another's signature", |s| {
        let own = fairway_identity::Ed25519Key::from_seed([EVIL; 32]);
        let genuine = genuine(s);
        let sign1 = CoseSign1::from_tagged_slice(&genuine).unwrap();
        let payload = sign1.payload.unwrap();
        forged(&own, FULL, FULL, payload, |_| {})
    }, REFUSED),
    shows!("a credential with a bit of its payload changed", |s| damaged(s, |c| { let at = c.len() - 80; c[at] ^= 1 }), REFUSED),
    shows!("a credential with a bit of its signature changed", |s| damaged(s, |c| *c.last_mut().unwrap() ^= 1), REFUSED),
    shows!("a credential cut by a byte", |s| damaged(s, |c| c.truncate(c.len() - 1)), REFUSED),
    shows!("a credential and a byte", |s| damaged(s, |c| c.push(0)), REFUSED),
    shows!("a credential of 1,025 bytes", |s| damaged(s, |c| c.resize(1025, 0)), REFUSED),
    shows!("a credential without its tag", |s| damaged(s, |c| *c = c[1..].to_vec()), REFUSED),
    shows!("a credential under another typ", |s| resigned(s, "fairway-time", "fairway-time", |_| {}), REFUSED),
    shows!("a credential under the lean typ", |s| resigned(s, LEAN, LEAN, |_| {}), REFUSED),
    shows!("a credential whose external_aad is another's", |s| resigned(s, FULL, LEAN, |_| {}), REFUSED),
    shows!("a credential whose external_aad is a trust set's", |s| resigned(s, FULL, "fairway-trust-set", |_| {}), REFUSED),
    shows!("a credential with a second algorithm", |s| resigned(s, FULL, FULL, |h| {
        h.alg = Some(coset::RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES256));
    }), REFUSED),
    shows!("a credential with a critical header", |s| resigned(s, FULL, FULL, |h| {
        h.crit = vec![coset::RegisteredLabelWithPrivate::Text("x".into())];
    }), REFUSED),
    shows!("a credential with a key id", |s| resigned(s, FULL, FULL, |h| h.key_id = vec![1]), REFUSED),
    shows!("the control: the same credential, signed again", |s| resigned(s, FULL, FULL, |_| {}), Ends::Goes),
    shows!("a trust set in place of the credential", |s| {
        let trust = s.authority.trust().bytes().to_vec();
        hello(Some(&trust), None, EVIL)
    }, REFUSED),
    shows!("a signed time in place of the credential", |s| {
        let issuer = s.authority.issuer();
        let time = SignedTime::sign(issuer, &[1; 16], START).unwrap();
        hello(Some(&time), None, EVIL)
    }, REFUSED),
    shows!("a claim that comes twice", |s| with_payload(s, |p| { p[0] += 1; p.extend_from_slice(b"\x63uid\x61x") }), REFUSED),
    shows!("claims with bytes behind them", |s| with_payload(s, |p| p.push(0)), REFUSED),
    shows!("no claims", |s| with_payload(s, |p| *p = vec![0xa0]), REFUSED),
    shows!("claims of a nesting beyond the bound", |s| with_payload(s, |p| *p = [&[0x81; 100][..], &[0]].concat()), REFUSED),
    shows!("a revoked credential", |s| {
        let id = s.authority.device("factory", "pump-7");
        s.authority.revoke(&id, START.plus(1));
        s.rules.revoked = s.authority.revocations();
        s.victim.set_rules(at(s.at), s.rules.clone());
        s.plan().hello
    }, Ends::Closes("revoked")),
    shows!("a credential from before the revocation floor", |s| {
        let floor = s.authority.publish(|set| set.revocation_floor = UnixSeconds(START.0 + 1)).clone();
        s.victim.set_trust(at(s.at), floor);
        s.plan().hello
    }, Ends::Closes("revoked")),
    shows!("a credential of an issuer that was dropped", |s| {
        let old = s.plan().hello;
        (0..3).for_each(|_| s.authority.rotate_issuer());
        s.victim.set_trust(at(s.at), s.authority.trust().clone());
        old
    }, REFUSED),
    // --- section 3: trust sets
    shows!("a trust set of random bytes", |s| trusting(s, b"not a trust set"), Ends::Closes("trust-refused")),
    shows!("an empty trust set", |s| trusting(s, b""), Ends::Closes("trust-refused")),
    shows!("a trust set of another root", |s| {
        let mut other = Authority::new("fairway.local", 99);
        let trust = other.publish(|_| {}).bytes().to_vec();
        trusting(s, &trust)
    }, Ends::Closes("trust-refused")),
    shows!("a trust set with a bit changed", |s| {
        let mut trust = s.authority.publish(|_| {}).bytes().to_vec();
        let middle = trust.len() / 2;
        trust[middle] ^= 1;
        trusting(s, &trust)
    }, Ends::Closes("trust-refused")),
    shows!("a credential in place of the trust set", |s| { let c = genuine(s); trusting(s, &c) }, Ends::Closes("trust-refused")),
    shows!("an older trust set is nothing", |s| {
        let old = s.authority.trust().bytes().to_vec();
        let newer = s.authority.publish(|_| {}).clone();
        s.victim.set_trust(at(s.at), newer);
        trusting(s, &old)
    }, Ends::Goes),
    shows!("a newer trust set under which its own credential is void", |s| {
        let old = genuine(s);
        (0..3).for_each(|_| s.authority.rotate_issuer());
        let newer = s.authority.trust().bytes().to_vec();
        hello(Some(&old), Some(&newer), EVIL)
    }, REFUSED),
    // --- section 3: the answering side's credentials
    answers!("no lean credential", |s| { let trust = s.authority.trust().bytes().to_vec(); hello(None, Some(&trust), EVIL) }, Ends::ClosesSilently("credential-required")),
    answers!("a full credential where the lean one belongs", |s| { let c = genuine(s); trust_and(s, &c) }, Ends::ClosesSilently("credential-refused")),
    answers!("another's lean credential", |s| { let claims = s.claims(9); s.hellos(&claims).0 }, Ends::ClosesSilently("credential-refused")),
    answers!("an expired lean credential", |s| claiming(s, |_, c| c.expires = START), Ends::ClosesSilently("credential-expired")),
    answers!("a foreign installation's lean credential", |s| {
        let _ = s;
        let mut other = Authority::new("fairway.local", 99);
        let claims = broker(&mut other, "mosquitto", EVIL);
        let [lean, _] = other.issue(&claims);
        hello(Some(&lean), Some(other.trust().bytes()), EVIL)
    }, Ends::ClosesSilently("trust-refused")),
    answers!("a hello of random bytes in message 2", |s| { let _ = s; vec![0x9f; 50] }, Ends::ClosesSilently("malformed")),
    answers!("no hello in message 2", |s| { let _ = s; vec![] }, Ends::ClosesSilently("malformed")),
    answers_last!("a Service that the workload does not back", |s| last(s, |_, c| c.services = vec![label("other")]), MISMATCH),
    answers_last!("a workload of another namespace", |s| last(s, |a, c| c.id = a.workload("office", "mosquitto")), MISMATCH),
    answers_last!("a second subject with the same key", |s| last(s, |a, c| c.id = a.workload("factory", "other")), MISMATCH),
    answers_last!("a second UID with the same key", |s| last(s, |a, c| {
        c.uid = fairway_sim::authority::uid(&a.device("factory", "reborn"));
    }), MISMATCH),
    answers_last!("a device in place of the Service", |s| last(s, |a, c| {
        c.id = a.device("factory", "broker");
        c.services.clear();
    }), MISMATCH),
    answers_last!("a lean credential in the HELLO", |s| {
        let claims = s.claims(EVIL);
        let [lean, _] = s.authority.issue(&claims);
        hello(Some(&lean), None, EVIL)
    }, REFUSED),
    answers_last!("no credential in the HELLO", |s| { let _ = s; hello(None, None, EVIL) }, Ends::Closes("credential-required")),
    answers_last!("another's credential in the HELLO", |s| { let claims = s.claims(9); s.hellos(&claims).1 }, REFUSED),
    answers_last!("an expired credential in the HELLO", |s| last(s, |_, c| c.expires = START), Ends::Closes("credential-expired")),
    answers_last!("a HELLO of random bytes", |s| { let _ = s; vec![0xff; 20] }, MALFORMED),
    answers_last!("an empty HELLO", |s| { let _ = s; vec![] }, MALFORMED),
    case("revoked between message 2 and the HELLO", |s| {
        let id = s.authority.workload("factory", "mosquitto");
        s.authority.revoke(&id, START.plus(1));
        s.handshake(|plan| plan.greeting = Some(text().good_settings()));
        s.rules.revoked = s.authority.revocations();
        s.victim.set_rules(at(s.at), s.rules.clone());
        s.drain();
    }, Ends::Closes("revoked")).fresh().answering(),
    // --- section 4: OPEN
    opens!("an OPEN without a header", b"", Ends::Resets("malformed")),
    opens!("an OPEN header of random bytes", &[0x9f; 20], Ends::Resets("malformed")),
    opens!("an OPEN header that is an array", &[0x82, 0, 0x81, 0x18, 80], Ends::Resets("malformed")),
    opens!("an OPEN for port 0", &port(0), Ends::Resets("malformed")),
    opens!("an OPEN for port 65,536", &[0xa1, 0, 0x82, 0, 0x81, 0x1a, 0, 1, 0, 0], Ends::Resets("malformed")),
    opens!("an OPEN without a target", &[0xa0], Ends::Resets("malformed")),
    opens!("an OPEN for a target that nobody knows", &[0xa1, 0, 0x82, 7, 0x80], Ends::Resets("malformed")),
    case("an OPEN header and a byte", |s| s.say(text().open(0, &[&port(1883)[..], &[0]].concat())), Ends::Resets("malformed")),
    opens!("an OPEN for Control at a Service", &[0xa1, 0, 0x82, 1, 0x80], Ends::Resets("no-control")),
    opens!("an OPEN for a port that policy does not give", &port(80), Ends::Resets("policy-denied")),
    opens!("an OPEN for a port that is not there", &port(9), Ends::Resets("policy-denied")),
    case("a traceparent of 129 bytes is ignored", |s| {
        let mut header = port(1883);
        header[0] = 0xa2;
        header.extend_from_slice(&[1, 0x78, 129]);
        header.extend_from_slice(&[b'0'; 129]);
        s.say(text().open(0, &header).stream(0, 0, b"in"));
        assert_eq!(s.read(0), b"in");
    }, Ends::Goes),
    case("an OPEN by whoever answers", |s| s.say(text().open(1, &port(1883))), Ends::Resets("wrong-direction")).answering(),
    // --- section 4.1: datagrams
    case("datagrams of a stream that policy allows", |s| {
        s.say(text().open_port(0));
        s.say(text().on_0(b"beside").on_0(b""));
        assert_eq!(s.datagrams(), 2);
    }, Ends::Goes),
    unseen!("a datagram of a stream that was never opened", text().on_0(b"beside")),
    unseen!("a datagram of a stream of the other side", text().open_port(0).datagram(b"\x01x")),
    unseen!("a datagram of the last stream there is", text().open_port(0).datagram(&[0xff; 8])),
    unseen!("a datagram before its OPEN", text().on_0(b"beside").open_port(0)),
    unseen!("a datagram of a stream that was given up", text().open_port(0).reset(0, 0).on_0(b"beside")),
    case("a datagram of a stream that policy refused", |s| {
        s.say(text().open(0, &port(80)));
        s.say(text().on_0(b"beside"));
        assert_eq!(s.datagrams(), 0);
    }, Ends::Resets("policy-denied")),
    case("a datagram of a stream that policy allows no more", |s| {
        s.say(text().open_port(0));
        s.rules.policy = Default::default();
        s.victim.set_rules(at(s.at), s.rules.clone());
        s.say(text().on_0(b"beside"));
        assert_eq!(s.datagrams(), 0);
    }, Ends::Resets("policy-denied")),
    case("a datagram where policy looks at HTTP", |s| {
        let mut policy = (*s.rules.policy).clone();
        policy.policies[0].to = vec![Door::Port {
            port: 11883,
            protocol: Protocol::Http(vec![]),
        }];
        s.rules.policy = policy.into();
        s.victim.set_rules(at(s.at), s.rules.clone());
        s.say(text().open_port(0).stream(0, 0, b"seen"));
        s.say(text().on_0(b"beside"));
        assert_eq!((s.read(0), s.datagrams()), (b"seen".to_vec(), 0));
    }, Ends::Goes),
    says!("a datagram of nothing", text().open_port(0).datagram(b""), MALFORMED),
    says!("a datagram that is cut within its stream's id", text().open_port(0).datagram(&[0x40]), MALFORMED),
    says!("a datagram with a long form of its stream's id", text().open_port(0).datagram(&long(0)), MALFORMED),
    case("a datagram of nothing, by whoever answers", |s| s.say(text().datagram(b"")), MALFORMED).answering(),
    // --- section 5: the end
    case("revoked in the middle of a stream", |s| {
        s.say(text().open_port(0).stream(0, 0, b"before"));
        assert_eq!(s.read(0), b"before");
        let id = s.authority.device("factory", "pump-7");
        s.authority.revoke(&id, START.plus(60));
        s.rules.revoked = s.authority.revocations();
        s.victim.set_rules(at(s.at), s.rules.clone());
        s.say(text().stream(0, 6, b"after"));
        assert_eq!(s.read(0), b"");
    }, Ends::Closes("revoked")),
    case("policy changes in the middle of a stream", |s| {
        s.say(text().open_port(0).stream(0, 0, b"unread"));
        s.rules.policy = Default::default();
        s.victim.set_rules(at(s.at), s.rules.clone());
        s.say(text().stream(0, 6, b"after"));
        assert_eq!(s.read(0), b"");
    }, Ends::Resets("policy-denied")),
    case("a credential that ends in the middle of a stream", |s| {
        let mut claims = s.claims(EVIL);
        claims.expires = START.plus(20);
        let (hello, _) = s.hellos(&claims);
        s.handshake(|plan| plan.hello = hello);
        s.say(text().open_port(0).stream(0, 0, b"unread"));
        s.pass(Time::from_secs(21));
        s.say(text().stream(0, 6, b"after"));
        assert_eq!(s.read(0), b"");
    }, Ends::Closes("credential-expired")).fresh(),
];

#[test]
fn admission() {
    run(CASES);
}

const FULL: &str = "fairway-credential";
const LEAN: &str = "fairway-lean";

fn dialled(scene: &mut Scene, purpose: u8, name: &str) {
    scene.handshake(|plan| plan.header = header(1, 1, purpose, name.as_bytes()));
}

/// The good hello, changed.
fn changed(scene: &mut Scene, change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut hello = scene.plan().hello;
    change(&mut hello);
    hello
}

/// The first hello of whoever was issued these claims.
fn claiming(scene: &mut Scene, change: fn(&Authority, &mut CredentialClaims)) -> Vec<u8> {
    let mut claims = scene.claims(EVIL);
    change(&scene.authority, &mut claims);
    scene.hellos(&claims).0
}

/// The last hello of whoever was issued these claims.
fn last(scene: &mut Scene, change: fn(&Authority, &mut CredentialClaims)) -> Vec<u8> {
    let mut claims = scene.claims(EVIL);
    change(&scene.authority, &mut claims);
    scene.hellos(&claims).1
}

/// The evil peer's true, full credential.
fn genuine(scene: &mut Scene) -> Vec<u8> {
    let claims = scene.claims(EVIL);
    let [_, full] = scene.authority.issue(&claims);
    full
}

fn trusting(scene: &mut Scene, trust: &[u8]) -> Vec<u8> {
    let credential = genuine(scene);
    hello(Some(&credential), Some(trust), EVIL)
}

fn trust_and(scene: &Scene, credential: &[u8]) -> Vec<u8> {
    hello(
        Some(credential),
        Some(scene.authority.trust().bytes()),
        EVIL,
    )
}

/// The true credential, changed after it was signed.
fn damaged(scene: &mut Scene, change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut credential = genuine(scene);
    change(&mut credential);
    hello(Some(&credential), None, EVIL)
}

/// The true claims, signed by the true issuer, with other headers.
fn resigned(scene: &mut Scene, typ: &str, aad: &str, change: fn(&mut Header)) -> Vec<u8> {
    let sign1 = CoseSign1::from_tagged_slice(&genuine(scene)).unwrap();
    let payload = sign1.payload.unwrap();
    forged(scene.authority.issuer(), typ, aad, payload, change)
}

/// Other claims, signed by the true issuer.
fn with_payload(scene: &mut Scene, change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let sign1 = CoseSign1::from_tagged_slice(&genuine(scene)).unwrap();
    let mut payload = sign1.payload.unwrap();
    change(&mut payload);
    forged(scene.authority.issuer(), FULL, FULL, payload, |_| {})
}

/// A hello with a credential that was put together by hand.
fn forged(
    key: &dyn Signer,
    typ: &str,
    aad: &str,
    payload: Vec<u8>,
    change: fn(&mut Header),
) -> Vec<u8> {
    let mut protected = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .value(16, ciborium::Value::Text(typ.to_owned()))
        .build();
    change(&mut protected);
    let aad = [b"fairway v1 ", aad.as_bytes()].concat();
    let bytes = CoseSign1Builder::new()
        .protected(protected)
        .payload(payload)
        .create_signature(&aad, |message| key.sign(message).unwrap())
        .build()
        .to_tagged_vec()
        .unwrap();
    hello(Some(&bytes), None, EVIL)
}
