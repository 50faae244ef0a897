//! channel/SPEC.md sections 2 and 5: what is no authentic, new record is
//! dropped without effect; what is in one that is authentic is the peer's own
//! fault.

use fairway_session::Time;

use crate::scene::{Case, Ends, Scene, case, run};
use crate::wire::text;

const VIOLATION: Ends = Ends::Closes("protocol-violation");

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- section 2: not a record
    case("an empty packet", |s| s.deliver(&[]), Ends::Goes),
    case("a packet of type 0", |s| s.deliver(&[0; 64]), Ends::Goes),
    case("a packet of type 7", |s| s.deliver(&[7; 64]), Ends::Goes),
    case("a packet of type 255", |s| s.deliver(&[255; 64]), Ends::Goes),
    case("message 1 in a session", |s| s.deliver(&[1; 1300]), Ends::Goes),
    case("message 2 in a session", |s| s.deliver(&[2; 1300]), Ends::Goes),
    case("message 3 in a session", |s| s.deliver(&[3; 200]), Ends::Goes),
    case("a record of one byte", |s| s.deliver(&[4]), Ends::Goes),
    case("a record of a header only", |s| s.deliver(&[4; 9]), Ends::Goes),
    case("a record one byte shorter than its tag", |s| s.deliver(&[4; 24]), Ends::Goes),
    case("a record of the largest packet and one byte", |s| {
        let record = s.evil.seal(&[0; 16_616]);
        assert_eq!(record.len(), 16_641);
        // Its number was not used up: nothing was remembered of it.
        s.deliver(&record);
        s.evil.next -= 1;
    }, Ends::Goes),
    case("a record of the largest packet", |s| s.say(text().padding(16_615)), Ends::Goes),
    case("records of every length without a key", |s| {
        (1..700).for_each(|length| s.deliver(&vec![4; length]));
    }, Ends::Goes),
    // --- section 5: not authentic
    case("a record cut by a byte", |s| changed(s, |r| r.truncate(r.len() - 1)), Ends::Goes),
    case("a record longer by a byte", |s| changed(s, |r| r.push(0)), Ends::Goes),
    case("a record with a bit of its type changed", |s| changed(s, |r| r[0] ^= 2), Ends::Goes),
    case("a record with another number", |s| changed(s, |r| r[8] ^= 1), Ends::Goes),
    case("a record with a far number", |s| changed(s, |r| r[3] ^= 1), Ends::Goes),
    case("a record with a bit of its text changed", |s| changed(s, |r| r[10] ^= 1), Ends::Goes),
    case("a record with a bit of its tag changed", |s| changed(s, |r| *r.last_mut().unwrap() ^= 0x80), Ends::Goes),
    case("a record under the key of the other direction", |s| {
        let keys = s.evil.keys().clone();
        let record = keys.to_initiator.seal(&[], 4, s.evil.next, &text().ping().0);
        s.deliver(&record);
    }, Ends::Goes),
    case("the victim's own record", |s| {
        s.say(text().ping());
        s.pass(Time::from_millis(50));
        let own = s.packets.last().unwrap().1.clone();
        assert_eq!(own[0], 4);
        s.deliver(&own);
    }, Ends::Goes),
    case("a record of another session", |s| {
        let mut other = Scene::other();
        let record = other.evil.seal(&text().close(0, b"").0);
        s.deliver(&record);
    }, Ends::Goes),
    case("a record of an odd epoch that has not begun", |s| {
        let keys = s.evil.keys().clone();
        let record = keys.to_responder.seal(&[], 6, s.evil.next, &text().close(0, b"").0);
        s.deliver(&record);
    }, Ends::Goes),
    case("a record as an ATTACH", |s| {
        let record = s.evil.seal(&text().close(0, b"").0);
        let attach = s.evil.seal_attach(&text().challenge([1; 8]).0);
        s.deliver(&[&attach[..17], &record].concat());
        s.evil.next -= 2;
    }, Ends::Goes),
    // --- section 5: packet numbers
    case("a record twice", |s| {
        s.say(text().open_port(0));
        let record = s.evil.seal(&text().on_0(b"once").0);
        s.deliver(&record);
        s.deliver(&record);
        assert_eq!(s.datagrams(), 1);
    }, Ends::Goes),
    case("another record under a number that was used", |s| {
        s.say(text().ping());
        s.evil.next -= 1;
        s.say(text().close(0, b""));
    }, Ends::Goes),
    case("records in the opposite order", |s| {
        s.say(text().open_port(0));
        let records: Vec<_> = (0..50).map(|_| s.evil.seal(&text().on_0(b"x").0)).collect();
        records.iter().rev().for_each(|record| s.deliver(record));
        assert_eq!(s.datagrams(), 50);
    }, Ends::Goes),
    case("a record within the window's 1,024 numbers", |s| {
        s.say(text().open_port(0));
        let late = s.evil.seal(&text().on_0(b"late").0);
        s.evil.next += 1000;
        s.say(text().ping());
        s.deliver(&late);
        assert_eq!(s.datagrams(), 1);
    }, Ends::Goes),
    case("a record far behind the window", |s| {
        s.say(text().open_port(0));
        let late = s.evil.seal(&text().on_0(b"too late").0);
        s.evil.next += 100_000;
        s.say(text().ping());
        s.deliver(&late);
        assert_eq!(s.datagrams(), 0);
    }, Ends::Goes),
    case("the largest number", |s| {
        s.say(text().open_port(0));
        let before = s.evil.next;
        s.evil.next = (1 << 62) - 2;
        s.say(text().on_0(b"far"));
        assert_eq!(s.datagrams(), 1);
        // All before it is behind the window now: the evil peer's own fault.
        s.evil.next = before;
        s.say(text().on_0(b"behind"));
        assert_eq!(s.datagrams(), 1);
        s.evil.next = (1 << 62) - 1;
    }, Ends::Goes),
    case("a number of 2^62", |s| odd_number(s, 1 << 62), Ends::Goes),
    case("the number 2^64 - 1", |s| odd_number(s, u64::MAX), Ends::Goes),
    // --- section 6: authentic nonsense
    case("a record without frames", |s| s.say(text()), VIOLATION),
    case("a record of padding only", |s| s.say(text().padding(100)), Ends::Goes),
    case("a CLOSE", |s| s.say(text().close(0, b"bye")), Ends::ClosesSilently("done")),
    case("records after the CLOSE", |s| {
        s.say(text().raw(&[0x3f]));
        let answers = s.heard.len();
        (0..10_000).for_each(|_| s.say(text().ping()));
        // "... ever more seldom and at most a few times."
        assert!(s.heard.len() - answers <= 8, "{}", s.heard.len());
    }, VIOLATION),
];

#[test]
fn records() {
    run(CASES);
}

/// A true record that was changed on its way: dropped. Then the true one: taken.
fn changed(scene: &mut Scene, change: fn(&mut Vec<u8>)) {
    scene.say(text().open_port(0));
    let record = scene.evil.seal(&text().on_0(b"true").0);
    let mut forged = record.clone();
    change(&mut forged);
    scene.deliver(&forged);
    assert_eq!(scene.datagrams(), 0, "the forged one was taken");
    scene.deliver(&record);
    assert_eq!(scene.datagrams(), 1, "the true one was lost by it");
}

/// Dropped, although it is authentic.
fn odd_number(scene: &mut Scene, number: u64) {
    let before = scene.evil.next;
    scene.evil.next = number;
    let key = scene.evil.keys().to_responder.clone();
    scene.deliver(&key.seal(&[], 4, number, &text().close(0, b"").0));
    scene.evil.next = before;
}
