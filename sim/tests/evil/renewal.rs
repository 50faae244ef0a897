//! channel/SPEC.md section 12 and session/SPEC.md section 7: a renewal is a
//! handshake like the first, bound to the epoch before, by the same two.

use fairway_identity::CredentialClaims;
use fairway_session::Time;
use fairway_sim::authority::{START, uid};

use crate::peer::{BadKey, Noise, Split, Trick, renewal_prologue};
use crate::scene::{Case, EVIL, Ends, Scene, at, case, hello, run};
use crate::wire::text;

const VIOLATION: Ends = Ends::Closes("protocol-violation");
const REFUSED: Ends = Ends::Closes("credential-refused");

/// The evil peer answers.
const fn answering(name: &'static str, attack: fn(&mut Scene), ends: Ends) -> Case {
    case(name, attack, ends).answering()
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- the control
    case("a good renewal", |s| whole(s, EVIL, |_, _| {}), Ends::Goes),
    case("a good renewal with another key", |s| whole(s, 67, |_, _| {}), Ends::Goes),
    answering("a good renewal, answered", |s| answered(s, EVIL, |_, _| {}), Ends::Goes),
    // --- part 1
    case("part 1 of a byte", |s| s.say(text().renew(1, 1, b"x")), VIOLATION),
    case("part 1 without bytes", |s| s.say(text().renew(1, 1, b"")), VIOLATION),
    case("part 1 cut by a byte", |s| first(s, 1, |m| m.truncate(m.len() - 1)), VIOLATION),
    case("part 1 longer by a byte", |s| first(s, 1, |m| m.push(0)), VIOLATION),
    case("part 1 with a bit of e changed", |s| first(s, 1, |m| m[0] ^= 1), VIOLATION),
    case("part 1 with a bit of ek changed", |s| first(s, 1, |m| m[40] ^= 1), VIOLATION),
    case("part 1 with a clear header, as message 1", |s| first(s, 1, |m| m.splice(..0, [1, 1, 1, 0]).for_each(drop)), VIOLATION),
    case("part 1 with a point of small order", |s| tricked(s, Trick {
        ephemeral: Some(BadKey(vec![0; 32])),
        ..Trick::default()
    }), VIOLATION),
    case("part 1 with an ek beyond the modulus", |s| tricked(s, Trick {
        kem: Some(vec![0xff; 1184]),
        ..Trick::default()
    }), VIOLATION),
    case("part 1 with an ek of 1,183 bytes", |s| tricked(s, Trick {
        kem: Some(vec![1; 1183]),
        ..Trick::default()
    }), VIOLATION),
    case("part 1 bound to another epoch's number", |s| bound_to(s, 2), VIOLATION),
    case("part 1 bound to another channel", |s| {
        let other = Scene::other();
        let mut noise = Noise::new(true, EVIL, &other.renewal_prologue(1), Trick::default());
        let first = noise.first();
        s.say(text().renew(1, 1, &first));
    }, VIOLATION),
    case("part 1 bound to nothing", |s| {
        let mut noise = Noise::new(true, EVIL, b"", Trick::default());
        let first = noise.first();
        s.say(text().renew(1, 1, &first));
    }, VIOLATION),
    case("part 1 for the epoch that is", |s| first(s, 0, |_| {}), Ends::Goes),
    case("part 1 for the epoch after the next", |s| first(s, 2, |_| {}), VIOLATION),
    case("part 1 for the last epoch there is", |s| first(s, (1 << 62) - 1, |_| {}), VIOLATION),
    case("part 1 twice", |s| {
        let mut noise = Noise::new(true, EVIL, &s.renewal_prologue(1), Trick::default());
        let first = noise.first();
        (0..2).for_each(|_| s.say(text().renew(1, 1, &first)));
    }, Ends::Goes),
    case("another part 1 while one is under way", |s| {
        first(s, 1, |_| {});
        s.say(text().renew(1, 1, b"another"));
    }, Ends::Goes),
    case("part 1 and nothing more", |s| {
        first(s, 1, |_| {});
        s.pass(Time::from_secs(20));
    }, Ends::Goes),
    case("a second renewal within the second", |s| {
        whole(s, EVIL, |_, _| {});
        let number = s.evil.next;
        let mut noise = Noise::new(true, EVIL, &s.renewal_prologue(2), Trick::default());
        let first = noise.first();
        s.say(text().renew(2, 1, &first));
        assert!(s.part(2, 2).is_none(), "answered at once");
        let taken = s.heard.iter().any(|(_, frame)| frame.acknowledges(number));
        assert!(!taken, "and it must not be acknowledged: it has to come again");
    }, Ends::Goes),
    // --- part 2, which is the responder's
    case("part 2 from whoever dialled", |s| s.say(text().renew(1, 2, b"x")), VIOLATION),
    answering("part 2 that nobody asked for", |s| s.say(text().renew(1, 2, b"x")), VIOLATION),
    answering("part 2 of a byte", |s| second(s, |m| m.truncate(1)), VIOLATION),
    answering("part 2 cut by a byte", |s| second(s, |m| m.truncate(m.len() - 1)), VIOLATION),
    answering("part 2 longer by a byte", |s| second(s, |m| m.push(0)), VIOLATION),
    answering("part 2 with a bit of ct changed", |s| second(s, |m| m[100] ^= 1), VIOLATION),
    answering("part 2 with a hello of 4,097 bytes", |s| {
        let second = second_of(s, EVIL, &[0; 4097]);
        s.say(text().renew(1, 2, &second));
    }, VIOLATION),
    answering("part 1 from whoever answers", |s| s.say(text().renew(1, 1, b"x")), VIOLATION),
    answering("part 3 from whoever answers", |s| s.say(text().renew(1, 3, b"x")), VIOLATION),
    answering("no part 2", |s| {
        s.victim.renew(at(s.at));
        s.pass(Time::from_secs(20));
    }, Ends::Goes),
    answering("a thousand requests for a renewal", |s| {
        (0..1000).for_each(|_| s.say(text().renew_request()));
        s.pass(Time::from_secs(5));
        assert!(s.part(1, 1).is_some() && s.part(2, 1).is_none());
    }, Ends::Goes),
    // --- part 3
    case("part 3 that nobody began", |s| s.say(text().renew(1, 3, b"x")), VIOLATION),
    case("part 3 before part 2", |s| {
        let mut noise = Noise::new(true, EVIL, &s.renewal_prologue(1), Trick::default());
        let first = noise.first();
        s.say(text().renew(1, 1, &first).renew(1, 3, b"x"));
    }, VIOLATION),
    case("part 3 cut by a byte", |s| third(s, |m| m.truncate(m.len() - 1)), VIOLATION),
    case("part 3 longer by a byte", |s| third(s, |m| m.push(0)), VIOLATION),
    case("part 3 with a bit of s changed", |s| third(s, |m| m[0] ^= 1), VIOLATION),
    case("part 3 with a bit of the hello changed", |s| third(s, |m| m[60] ^= 1), VIOLATION),
    case("part 3 for another epoch", |s| {
        first(s, 1, |_| {});
        s.say(text().renew(2, 3, b"x"));
    }, VIOLATION),
    case("part 3 with another psk than ML-KEM's", |s| {
        let trick = Trick { psk: Some([0; 32]), ..Trick::default() };
        let mut noise = Noise::new(true, EVIL, &s.renewal_prologue(1), trick);
        let first = noise.first();
        s.say(text().renew(1, 1, &first));
        let second = s.part(1, 2).unwrap();
        let (third, _) = noise.third(&second, &s.plan().hello);
        s.say(text().renew(1, 3, &third));
    }, VIOLATION),
    case("part 3 with a point of small order", |s| {
        let trick = Trick { fixed: Some(BadKey(vec![0; 32])), ..Trick::default() };
        let mut noise = Noise::new(true, EVIL, &s.renewal_prologue(1), trick);
        let first = noise.first();
        s.say(text().renew(1, 1, &first));
        let second = s.part(1, 2).unwrap();
        let (third, _) = noise.third(&second, &s.plan().hello);
        s.say(text().renew(1, 3, &third));
    }, VIOLATION),
    case("part 3 again, when all is done", |s| {
        whole(s, EVIL, |_, _| {});
        s.say(text().renew(1, 3, b"x"));
        s.say(text().renew(1, 1, b"x"));
    }, Ends::Goes),
    // --- the switch
    case("a record of the new epoch before part 3", |s| {
        let key = s.evil.keys().to_responder.clone();
        first(s, 1, |_| {});
        s.deliver(&key.seal(&[], 6, s.evil.next, &text().close(0, b"").0));
    }, Ends::Goes),
    case("the new key under the old type", |s| {
        let next = renewed(s);
        s.deliver(&next.to_responder.seal(&[], 4, s.evil.next, &text().close(0, b"").0));
        s.switch(next);
    }, Ends::Goes),
    case("the old key under the new type", |s| {
        let next = renewed(s);
        let old = s.evil.keys().to_responder.clone();
        s.deliver(&old.seal(&[], 6, s.evil.next, &text().close(0, b"").0));
        s.switch(next);
    }, Ends::Goes),
    case("a record of the old epoch a moment after its end", |s| {
        s.say(text().open_port(0));
        let late = s.evil.seal(&text().on_0(b"late").0);
        whole(s, EVIL, |_, _| {});
        s.deliver(&late);
        assert_eq!(s.datagrams(), 1, "both are readable for a while");
    }, Ends::Goes),
    case("a record of the old epoch long after its end", |s| {
        s.say(text().open_port(0));
        let late = s.evil.seal(&text().on_0(b"too late").0);
        whole(s, EVIL, |_, _| {});
        s.pass(Time::from_secs(6));
        s.deliver(&late);
        assert_eq!(s.datagrams(), 0, "the key is gone");
    }, Ends::Goes),
    case("a number of the old epoch used again in the new", |s| {
        let before = s.evil.next - 1;
        whole(s, EVIL, |_, _| {});
        let key = s.evil.keys().to_responder.clone();
        s.deliver(&key.seal(&[], 6, before, &text().close(0, b"").0));
    }, Ends::Goes),
    case("an ATTACH of the old epoch long after its end", |s| {
        let late = s.evil.seal_attach(&text().challenge([1; 8]).0);
        whole(s, EVIL, |_, _| {});
        s.pass(Time::from_secs(6));
        s.deliver_on(fairway_session::PathId(9), &late);
        assert_eq!(s.victim.candidate_path(), None);
    }, Ends::Goes),
    case("the next renewal under the key that was to go", |s| {
        let next = renewed(s);
        s.pass(Time::from_secs(2));
        let prologue = renewal_prologue(&next.secret, 2);
        s.evil.old_keys = Some(next);
        let first = Noise::new(true, EVIL, &prologue, Trick::default()).first();
        s.say(text().renew(2, 1, &first));
    }, VIOLATION),
    // --- who it is now (session/SPEC.md section 7)
    case("another subject", |s| whole(s, EVIL, |s, claims| {
        claims.id = s.authority.device("factory", "pump-8");
    }), Ends::Closes("name-mismatch")),
    case("another UID", |s| whole(s, EVIL, |s, claims| {
        claims.uid = uid(&s.authority.device("factory", "reborn"));
    }), Ends::Closes("name-mismatch")),
    case("another instance", |s| renewed_with(s, EVIL, |s| {
        let claims = s.claims(EVIL);
        let [_, full] = s.authority.issue(&claims);
        hello(Some(&full), None, 1)
    }), Ends::Closes("malformed")),
    case("no credential any more", |s| renewed_with(s, EVIL, |_| hello(None, None, EVIL)), Ends::Closes("credential-required")),
    case("the lean credential in a renewal", |s| renewed_with(s, EVIL, |s| {
        let claims = s.claims(EVIL);
        let [lean, _] = s.authority.issue(&claims);
        hello(Some(&lean), None, EVIL)
    }), REFUSED),
    case("no hello in a renewal", |s| renewed_with(s, EVIL, |_| vec![]), Ends::Closes("malformed")),
    case("a credential for another key than the renewal's", |s| renewed_with(s, 67, |s| {
        let claims = s.claims(EVIL);
        s.hellos(&claims).0
    }), REFUSED),
    case("an expired credential in a renewal", |s| whole(s, EVIL, |_, claims| claims.expires = START), Ends::Closes("credential-expired")),
    case("a credential from the future in a renewal", |s| whole(s, EVIL, |_, claims| {
        claims.not_before = START.plus(600);
        claims.issued_at = START.plus(600);
    }), REFUSED),
    case("a revoked credential in a renewal", |s| {
        let id = s.authority.device("factory", "pump-7");
        s.authority.revoke(&id, START);
        s.rules.revoked = s.authority.revocations();
        // What it has now is of the second of the revocation, and so good.
        s.victim.set_rules(at(s.at), s.rules.clone());
        whole(s, EVIL, |_, claims| {
            claims.issued_at = START.minus(10);
        });
    }, Ends::Closes("revoked")),
    case("a foreign installation's credential in a renewal", |s| renewed_with(s, EVIL, |_| {
        let mut other = Scene::other();
        other.authority.rotate_issuer();
        let claims = other.claims(EVIL);
        other.hellos(&claims).0
    }), REFUSED),
    case("a trust set of somebody else in a renewal", |s| renewed_with(s, EVIL, |s| {
        let claims = s.claims(EVIL);
        let [_, full] = s.authority.issue(&claims);
        hello(Some(&full), Some(b"not a trust set"), EVIL)
    }), Ends::Closes("trust-refused")),
    case("attributes that policy wants are gone after a renewal", |s| {
        s.say(text().open_port(0));
        whole(s, EVIL, |_, claims| claims.attributes.clear());
        s.drain();
    }, Ends::Resets("policy-denied")),
    answering("another subject, answered", |s| answered(s, EVIL, |s, claims| {
        claims.id = s.authority.workload("factory", "other");
    }), Ends::Closes("name-mismatch")),
    answering("a Service that is backed no more", |s| answered(s, EVIL, |_, claims| claims.services.clear()), Ends::Closes("name-mismatch")),
    answering("a lean credential, answered in a renewal", |s| {
        let claims = s.claims(EVIL);
        let [lean, _] = s.authority.issue(&claims);
        let second = second_of(s, EVIL, &hello(Some(&lean), None, EVIL));
        s.say(text().renew(1, 2, &second));
    }, REFUSED),
    answering("no credential, answered in a renewal", |s| {
        let second = second_of(s, EVIL, &hello(None, None, EVIL));
        s.say(text().renew(1, 2, &second));
    }, Ends::Closes("credential-required")),
    answering("another instance, answered", |s| {
        let claims = s.claims(EVIL);
        let [_, full] = s.authority.issue(&claims);
        let second = second_of(s, EVIL, &hello(Some(&full), None, 1));
        s.say(text().renew(1, 2, &second));
    }, Ends::Closes("malformed")),
];

#[test]
fn renewals() {
    run(CASES);
}

/// Part 1, changed, for `epoch`.
fn first(scene: &mut Scene, epoch: u64, change: fn(&mut Vec<u8>)) {
    let mut noise = Noise::new(true, EVIL, &scene.renewal_prologue(epoch), Trick::default());
    let mut first = noise.first();
    change(&mut first);
    scene.say(text().renew(epoch, 1, &first));
}

fn tricked(scene: &mut Scene, trick: Trick) {
    let mut noise = Noise::new(true, EVIL, &scene.renewal_prologue(1), trick);
    let first = noise.first();
    scene.say(text().renew(1, 1, &first));
}

/// Part 1 for epoch 1 that is bound to another epoch.
fn bound_to(scene: &mut Scene, epoch: u64) {
    let mut noise = Noise::new(true, EVIL, &scene.renewal_prologue(epoch), Trick::default());
    let first = noise.first();
    scene.say(text().renew(1, 1, &first));
}

/// Part 3, changed.
fn third(scene: &mut Scene, change: fn(&mut Vec<u8>)) {
    let mut noise = Noise::new(true, EVIL, &scene.renewal_prologue(1), Trick::default());
    let first = noise.first();
    scene.say(text().renew(1, 1, &first));
    let second = scene.part(1, 2).expect("part 2");
    let (mut third, _) = noise.third(&second, &scene.plan().hello);
    change(&mut third);
    scene.say(text().renew(1, 3, &third));
}

/// Three good parts; the evil peer has not switched yet.
fn renewed(scene: &mut Scene) -> Split {
    let hello = scene.plan().hello;
    scene.renew(EVIL, &hello)
}

/// A renewal that shows this hello; the switch is made.
fn renewed_with(scene: &mut Scene, secret: u8, hello: fn(&mut Scene) -> Vec<u8>) {
    let hello = hello(scene);
    let next = scene.renew(secret, &hello);
    finish(scene, next);
}

/// A whole renewal, good but for the claims.
fn whole(scene: &mut Scene, secret: u8, change: fn(&mut Scene, &mut CredentialClaims)) {
    let mut claims = scene.claims(secret);
    change(scene, &mut claims);
    let (hello, _) = scene.hellos(&claims);
    let next = scene.renew(secret, &hello);
    finish(scene, next);
}

fn finish(scene: &mut Scene, next: Split) {
    // The victim has said all it has to say in the old epoch.
    let is_open = scene.victim.is_established();
    scene.switch_heard(&next);
    if is_open {
        scene.switch(next);
        scene.say(text().ping());
    }
}

/// The evil peer's part 2 to the victim's part 1.
fn second_of(scene: &mut Scene, secret: u8, hello: &[u8]) -> Vec<u8> {
    begun(scene, secret, hello).1
}

fn begun(scene: &mut Scene, secret: u8, hello: &[u8]) -> (Noise, Vec<u8>) {
    scene.victim.renew(at(scene.at));
    scene.drain();
    let first = scene.part(1, 1).expect("the victim's part 1");
    let mut noise = Noise::new(false, secret, &scene.renewal_prologue(1), Trick::default());
    let second = noise.second(&first, hello);
    (noise, second)
}

fn second(scene: &mut Scene, change: fn(&mut Vec<u8>)) {
    let claims = scene.claims(EVIL);
    let (_, hello) = scene.hellos(&claims);
    let mut second = second_of(scene, EVIL, &hello);
    change(&mut second);
    scene.say(text().renew(1, 2, &second));
}

/// A whole renewal that the victim began, good but for the claims.
fn answered(scene: &mut Scene, secret: u8, change: fn(&mut Scene, &mut CredentialClaims)) {
    let mut claims = scene.claims(secret);
    change(scene, &mut claims);
    let (_, hello) = scene.hellos(&claims);
    let (mut noise, second) = begun(scene, secret, &hello);
    scene.say(text().renew(1, 2, &second));
    let Some(third) = scene.part(1, 3) else {
        return;
    };
    noise.read_third(&third).expect("the victim's part 3");
    let before = scene.evil.keys().secret;
    let next = noise.split(&before);
    scene.switch(next);
    scene.say(text().ping());
}
