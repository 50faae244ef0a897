//! channel/SPEC.md sections 2 to 4: "any failure ends the handshake for good:
//! the end forgets its state and sends nothing".

use fairway_session::Time;

use crate::peer::{BadKey, Noise, Trick};
use crate::scene::{Case, EVIL, Ends, NAME, Scene, case, header, run};
use crate::wire::text;

const FAILED: Ends = Ends::ClosesSilently("handshake-failed");
const TIMEOUT: Ends = Ends::ClosesSilently("handshake-timeout");

/// Message `N` has these bytes changed by `f`.
fn mangled(scene: &mut Scene, mangle: fn(u8, &mut Vec<u8>)) {
    scene.handshake(|plan| plan.mangle = mangle);
}

/// Where Noise message 1 begins.
const E: usize = 5 + NAME.len();

/// The evil peer dials.
const fn called(name: &'static str, attack: fn(&mut Scene), ends: Ends) -> Case {
    case(name, attack, ends).fresh()
}

/// The evil peer answers.
const fn calling(name: &'static str, attack: fn(&mut Scene), ends: Ends) -> Case {
    case(name, attack, ends).fresh().answering()
}

/// Changes packet `$number` by an expression over it.
macro_rules! mangle {
    ($number:literal, $packet:ident => $change:expr) => {
        |scene| {
            mangled(scene, |number, $packet| {
                if number == $number {
                    $change;
                }
            })
        }
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- the control: nothing is wrong
    called("a good handshake, dialled", |s| s.handshake(|_| {}), Ends::Goes),
    calling("a good handshake, answered", |s| s.handshake(|_| {}), Ends::Goes),
    // --- section 2: packets out of place are dropped without effect
    called("an empty packet first", |s| then_well(s, &[]), Ends::Goes),
    called("a packet of type 0 first", |s| then_well(s, &[0; 100]), Ends::Goes),
    called("a packet of type 7 first", |s| then_well(s, &[7; 100]), Ends::Goes),
    called("a packet of type 255 first", |s| then_well(s, &[255; 100]), Ends::Goes),
    called("message 2 to whoever answers", |s| then_well(s, &[2; 1300]), Ends::Goes),
    called("message 3 before message 1", |s| then_well(s, &[3; 100]), Ends::Goes),
    called("a record before message 1", |s| then_well(s, &[4; 100]), Ends::Goes),
    called("an ATTACH before message 1", |s| then_well(s, &[5; 100]), Ends::Goes),
    called("a record of an odd epoch before message 1", |s| then_well(s, &[6; 100]), Ends::Goes),
    calling("message 1 to whoever dials", |s| then_well(s, &[1; 1300]), Ends::Goes),
    calling("message 3 to whoever dials", |s| then_well(s, &[3; 100]), Ends::Goes),
    calling("a record before message 2", |s| then_well(s, &[4; 100]), Ends::Goes),
    // --- section 4: the clear header
    called("protocol version 0", |s| s.handshake(|p| p.header[1] = 0), FAILED),
    called("protocol version 2", |s| s.handshake(|p| p.header[1] = 2), FAILED),
    called("suite 0", |s| s.handshake(|p| p.header[2] = 0), FAILED),
    called("suite 2, which is reserved", |s| s.handshake(|p| p.header[2] = 2), FAILED),
    called("no dialled name", |s| s.handshake(|p| p.header = header(1, 1, 0, b"")), FAILED),
    called("a dialled name that is not UTF-8", |s| {
        s.handshake(|p| p.header = header(1, 1, 0, b"\xff\xfe"));
    }, FAILED),
    called("a dialled name longer than the packet", mangle!(1, p => { p.truncate(60); p[4] = 255 }), FAILED),
    called("a dialled name that takes a byte of e", mangle!(1, p => p[4] += 1), FAILED),
    called("a dialled name that gives a byte to e", mangle!(1, p => p[4] -= 1), FAILED),
    called("a version that the prologue does not know", mangle!(1, p => p[1] ^= 3), FAILED),
    called("a purpose that the prologue does not know", mangle!(1, p => p[3] ^= 1), FAILED),
    called("a name that the prologue does not know", mangle!(1, p => p[6] ^= 1), FAILED),
    // --- section 4: message 1
    called("message 1 of one byte", mangle!(1, p => p.truncate(1)), FAILED),
    called("message 1 that ends after its header", mangle!(1, p => p.truncate(E)), FAILED),
    called("message 1 that ends after e", mangle!(1, p => p.truncate(E + 32)), FAILED),
    called("message 1 one byte short", mangle!(1, p => p.truncate(p.len() - 1)), FAILED),
    called("message 1 one byte long", mangle!(1, p => p.push(0)), FAILED),
    called("message 1 of the largest packet and one byte", mangle!(1, p => p.resize(16_641, 0)), FAILED),
    called("message 1 with a bit of e changed", mangle!(1, p => p[E] ^= 1), FAILED),
    called("message 1 with a bit of ek changed", mangle!(1, p => p[E + 40] ^= 1), FAILED),
    called("message 1 with a bit of its tag changed", mangle!(1, p => *p.last_mut().unwrap() ^= 1), FAILED),
    called("message 1 with an e of 31 bytes", |s| bad_ephemeral(s, 31), FAILED),
    called("message 1 with an e of 33 bytes", |s| bad_ephemeral(s, 33), FAILED),
    called("message 1 alone", |s| {
        mangled(s, |number, packet| if number == 3 { *packet = vec![0] });
        s.pass(Time::from_secs(11));
    }, TIMEOUT),
    called("message 1 of another handshake", |s| {
        let plan = s.plan();
        let mut noise = Noise::new(true, 77, &plan.header, Trick::default());
        let recorded = [&plan.header[..], &noise.first()].concat();
        s.deliver(&recorded);
        assert!(s.packet(2).is_some(), "whoever recorded it cannot go on");
        s.handshake(|_| {});
        s.pass(Time::from_secs(11));
    }, TIMEOUT),
    called("messages 1 and 3 five times each", |s| s.handshake(|p| p.times = 5), Ends::Goes),
    calling("message 2 five times", |s| s.handshake(|p| p.times = 5), Ends::Goes),
    called("another message 1 after the first", |s| {
        let other = [&header(1, 1, 0, NAME.as_bytes())[..], &[7; 1232]].concat();
        second_time(s, 1, &other);
    }, Ends::Goes),
    // --- section 4: ML-KEM
    called("an ek of 1,183 bytes", |s| bad_kem(s, vec![1; 1183]), FAILED),
    called("an ek of 1,185 bytes", |s| bad_kem(s, vec![1; 1185]), FAILED),
    called("no ek", |s| bad_kem(s, vec![]), FAILED),
    called("an ek beyond the modulus", |s| bad_kem(s, vec![0xff; 1184]), FAILED),
    called("an ek of zeros, of which nobody has the key", |s| bad_kem(s, vec![0; 1184]), FAILED),
    called("another psk than ML-KEM's", |s| s.handshake(|p| p.trick.psk = Some([0; 32])), FAILED),
    calling("a ct of zeros", |s| bad_ct(s, vec![0; 1088]), TIMEOUT),
    calling("a ct of ones", |s| bad_ct(s, vec![0xff; 1088]), TIMEOUT),
    calling("a ct of 1,087 bytes and no hello", |s| {
        s.handshake(|p| { p.trick.kem = Some(vec![1; 1087]); p.hello = vec![] });
    }, FAILED),
    calling("no ct", |s| s.handshake(|p| { p.trick.kem = Some(vec![]); p.hello = vec![] }), FAILED),
    calling("another psk than ML-KEM's, answered", |s| {
        s.handshake(|p| p.trick.psk = Some([0; 32]));
        s.pass(Time::from_secs(11));
    }, TIMEOUT),
    // --- section 4: message 2
    calling("message 2 of one byte", mangle!(2, p => p.truncate(1)), FAILED),
    calling("message 2 that ends after e", mangle!(2, p => p.truncate(33)), FAILED),
    calling("message 2 that ends after s", mangle!(2, p => p.truncate(33 + 48)), FAILED),
    calling("message 2 one byte short", mangle!(2, p => p.truncate(p.len() - 1)), FAILED),
    calling("message 2 one byte long", mangle!(2, p => p.push(0)), FAILED),
    calling("message 2 of the largest packet and one byte", mangle!(2, p => p.resize(16_641, 0)), FAILED),
    calling("message 2 with a bit of e changed", mangle!(2, p => p[1] ^= 1), FAILED),
    calling("message 2 with a bit of s changed", mangle!(2, p => p[34] ^= 1), FAILED),
    calling("message 2 with a bit of ct changed", mangle!(2, p => p[100] ^= 1), FAILED),
    calling("message 2 with a bit of the hello changed", mangle!(2, p => p[1200] ^= 1), FAILED),
    calling("message 2 with a bit of its tag changed", mangle!(2, p => *p.last_mut().unwrap() ^= 1), FAILED),
    calling("message 2 with a hello of 4,097 bytes", |s| s.handshake(|p| p.hello = vec![0; 4097]), FAILED),
    calling("message 2 of another handshake", |s| {
        let mut other = Noise::new(true, 5, b"another", Trick::default());
        let first = other.first();
        let mut noise = Noise::new(false, EVIL, b"another", Trick::default());
        let second = noise.second(&first, b"hello");
        s.deliver(&[&[2][..], &second].concat());
    }, FAILED),
    calling("message 1 comes back as message 2", |s| {
        let mut first = s.packet(1).unwrap();
        first[0] = 2;
        s.deliver(&first);
    }, FAILED),
    calling("no message 2", |s| s.pass(Time::from_secs(11)), TIMEOUT),
    calling("another message 2 after the first", |s| second_time(s, 2, &[2; 2000]), Ends::Goes),
    // --- section 4: message 3
    called("message 3 of one byte", mangle!(3, p => p.truncate(1)), FAILED),
    called("message 3 that ends after s", mangle!(3, p => p.truncate(49)), FAILED),
    called("message 3 one byte short", mangle!(3, p => p.truncate(p.len() - 1)), FAILED),
    called("message 3 one byte long", mangle!(3, p => p.push(0)), FAILED),
    called("message 3 of the largest packet and one byte", mangle!(3, p => p.resize(16_641, 0)), FAILED),
    called("message 3 with a bit of s changed", mangle!(3, p => p[1] ^= 1), FAILED),
    called("message 3 with a bit of the hello changed", mangle!(3, p => p[60] ^= 1), FAILED),
    called("message 3 with a bit of its tag changed", mangle!(3, p => *p.last_mut().unwrap() ^= 1), FAILED),
    called("message 3 with a hello of 4,097 bytes", |s| s.handshake(|p| p.hello = vec![0; 4097]), FAILED),
    called("message 3 of another handshake", |s| {
        mangled(s, |number, packet| if number == 3 { *packet = third_of_another() });
    }, FAILED),
    called("another message 3 after the first", |s| second_time(s, 3, &[3; 500]), Ends::Goes),
    // --- section 4: the order of hellos and settings
    calling("no HELLO frame", |s| {
        s.handshake(|p| p.greeting = Some(text().good_settings()));
        s.pass(Time::from_secs(11));
    }, Ends::Closes("handshake-timeout")),
    calling("no SETTINGS", |s| {
        s.handshake(|p| p.greeting = Some(text().hello(&p.last_hello)));
        s.pass(Time::from_secs(11));
    }, Ends::Closes("handshake-timeout")),
    called("no SETTINGS from whoever dialled", |s| {
        s.handshake(|p| p.greeting = Some(text().ping()));
        s.pass(Time::from_secs(11));
    }, Ends::Closes("handshake-timeout")),
    called("HELLO from whoever dialled", |s| {
        s.handshake(|p| p.greeting = Some(text().hello(&p.hello)));
    }, Ends::Closes("protocol-violation")),
    called("a stream before the settings", |s| {
        s.handshake(|p| p.greeting = Some(text().open_port(0).stream(0, 0, b"early")));
        // It was not acted on: the very same bytes are good later.
        s.say(text().good_settings());
        s.say(text().open_port(0).stream(0, 0, b"again"));
        assert_eq!(s.read(0), b"again");
    }, Ends::Goes),
    called("a datagram before the settings", |s| {
        // It would be malformed, if somebody looked at it.
        s.handshake(|p| p.greeting = Some(text().datagram(b"")));
        assert!(s.events.is_empty(), "{:?}", s.events);
        s.say(text().good_settings());
    }, Ends::Goes),
    calling("streams before the HELLO", |s| {
        s.handshake(|p| p.greeting = Some(text().good_settings().open(1, b"").hello(&p.last_hello)));
        let hello = s.plan().last_hello;
        s.say(text().good_settings().hello(&hello));
    }, Ends::Goes),
];

#[test]
fn handshakes() {
    run(CASES);
}

/// A packet, and then a good handshake.
fn then_well(scene: &mut Scene, packet: &[u8]) {
    scene.deliver(packet);
    scene.handshake(|_| {});
}

/// A good handshake, and then `packet` in place of a repetition of its
/// message `number`; also the true message once more.
fn second_time(scene: &mut Scene, number: u8, packet: &[u8]) {
    assert_eq!(packet[0], number);
    scene.handshake(|_| {});
    scene.deliver(packet);
}

fn bad_kem(scene: &mut Scene, ek: Vec<u8>) {
    scene.handshake(|plan| plan.trick.kem = Some(ek));
}

fn bad_ct(scene: &mut Scene, ct: Vec<u8>) {
    bad_kem(scene, ct);
    scene.pass(Time::from_secs(11));
}

fn bad_ephemeral(scene: &mut Scene, length: usize) {
    scene.handshake(|plan| plan.trick.ephemeral = Some(BadKey(vec![9; length])));
}

fn third_of_another() -> Vec<u8> {
    let mut dialler = Noise::new(true, EVIL, b"x", Trick::default());
    let mut answerer = Noise::new(false, 5, b"x", Trick::default());
    let second = answerer.second(&dialler.first(), b"");
    let (third, _) = dialler.third(&second, b"hello");
    [&[3][..], &third].concat()
}

/// The u-coordinates of small order, canonical or not, of RFC 7748's curve.
const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// All of them, also with the bit set that X25519 ignores.
fn small_order_points() -> Vec<BadKey> {
    let points = SMALL_ORDER.map(|hex| {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..64).step_by(2).map(byte).collect::<Vec<u8>>()
    });
    let marked = points.clone().map(|mut point| {
        point[31] |= 0x80;
        point
    });
    points.into_iter().chain(marked).map(BadKey).collect()
}

/// "An end MUST refuse an X25519 result that is all zero."
#[test]
fn points_of_small_order_end_the_handshake_wherever_they_stand() {
    for point in small_order_points() {
        for case in [
            called("", |_| {}, FAILED),
            called("", |_| {}, FAILED).answering(),
        ] {
            for ephemeral in [true, false] {
                let mut trick = Trick::default();
                let place = match ephemeral {
                    true => &mut trick.ephemeral,
                    false => &mut trick.fixed,
                };
                *place = Some(point.clone());
                let failed = case.run_with(|scene| scene.handshake(|plan| plan.trick = trick));
                assert_eq!(failed, Ok(()), "{point:?}, ephemeral: {ephemeral}");
            }
        }
    }
}

/// The control: between two peers that do not look, such a handshake is good,
/// so nothing but the refusal of a zero ends it.
#[test]
fn whoever_does_not_look_falls_for_points_of_small_order() {
    let trick = || Trick {
        ephemeral: Some(BadKey(vec![0; 32])),
        fixed: Some(BadKey(vec![0; 32])),
        ..Trick::default()
    };
    let mut dialler = Noise::new(true, 1, b"", trick());
    let mut answerer = Noise::new(false, 2, b"", trick());
    let second = answerer.second(&dialler.first(), b"");
    let (third, _) = dialler.third(&second, b"mine");
    assert_eq!(answerer.read_third(&third).unwrap(), b"mine");
    assert_eq!(dialler.split(b"").hash, answerer.split(b"").hash);
}
