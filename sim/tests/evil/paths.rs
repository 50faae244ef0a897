//! channel/SPEC.md section 11: traffic moves only to where the true peer has
//! answered, and nothing else that is said about paths means anything.

use bytes::BytesMut;
use fairway_session::{PathId, Time};

use crate::peer;
use crate::scene::{Case, Ends, FIRST, Scene, at, case, run};
use crate::wire::{Heard, text};

const VIOLATION: Ends = Ends::Closes("protocol-violation");

/// Another path than the first.
const NEW: PathId = PathId(7);
/// And another.
const THIRD: PathId = PathId(8);

const QUESTION: [u8; 8] = *b"question";

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- the control
    case("a good re-attachment", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        assert_eq!(s.answered_on(NEW), 1);
        assert_eq!(s.victim.active_path(), Some(FIRST), "nobody has answered yet");
        let challenge = s.challenge_on(NEW).unwrap();
        s.say_on(NEW, text().response(challenge));
        assert_eq!(s.victim.active_path(), Some(NEW));
    }, Ends::Goes),
    // --- ATTACH
    case("an ATTACH replayed on another path", |s| replayed(s, THIRD), Ends::Goes),
    case("an ATTACH replayed on its own path", |s| replayed(s, NEW), Ends::Goes),
    case("an ATTACH replayed after the move", |s| {
        let attach = s.evil.seal_attach(&text().challenge(QUESTION).0);
        s.deliver_on(NEW, &attach);
        let challenge = s.challenge_on(NEW).unwrap();
        s.say_on(NEW, text().response(challenge));
        s.heard.clear();
        s.deliver_on(THIRD, &attach);
        still_on(s, NEW);
        assert_eq!(s.answered_on(THIRD), 0);
    }, Ends::Goes),
    case("an ATTACH with another session's id", |s| {
        let attach = s.evil.seal_attach(&text().challenge(QUESTION).0);
        let mut wrong = attach.clone();
        wrong[1..17].copy_from_slice(&peer::connection_id(&Scene::other().evil.hash));
        // As the endpoint's table would have it, and by a mistake of its.
        s.deliver_on(NEW, &wrong);
        s.victim.handle_input(at(s.at), NEW, BytesMut::from(&wrong[..]));
        s.drain();
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH with this session's id by another session's peer", |s| {
        let mut other = Scene::other();
        other.evil.next = s.evil.next;
        other.evil.hash = s.evil.hash;
        let attach = other.evil.seal_attach(&text().challenge(QUESTION).0);
        s.deliver_on(NEW, &attach);
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH with a bit changed, anywhere", |s| {
        let attach = s.evil.seal_attach(&text().challenge(QUESTION).0);
        for at in 0..attach.len() {
            let mut forged = attach.clone();
            forged[at] ^= 0x10;
            s.deliver_on(NEW, &forged);
        }
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH cut anywhere", |s| {
        let attach = s.evil.seal_attach(&text().challenge(QUESTION).0);
        (0..attach.len()).for_each(|length| s.deliver_on(NEW, &attach[..length]));
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH under the key of the other direction", |s| {
        let prefix = [&[5][..], &peer::connection_id(&s.evil.hash)].concat();
        let key = s.evil.keys().to_initiator.clone();
        let attach = key.seal(&prefix, 4, 900, &text().challenge(QUESTION).0);
        s.deliver_on(NEW, &attach);
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH of an epoch that has not begun", |s| {
        let prefix = [&[5][..], &peer::connection_id(&s.evil.hash)].concat();
        let key = s.evil.keys().to_responder.clone();
        let attach = key.seal(&prefix, 6, 900, &text().challenge(QUESTION).0);
        s.deliver_on(NEW, &attach);
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("a record in the clothes of an ATTACH", |s| {
        let record = s.evil.seal(&text().challenge(QUESTION).0);
        let attach = s.evil.seal_attach(&text().challenge(QUESTION).0);
        s.deliver_on(NEW, &[&attach[..17], &record].concat());
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH in the clothes of a record", |s| {
        let attach = s.evil.seal_attach(&text().challenge(QUESTION).0);
        s.deliver_on(NEW, &attach[17..]);
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("an ATTACH without a challenge", |s| s.attach(NEW, text().ping()), VIOLATION),
    case("an ATTACH without frames", |s| s.attach(NEW, text()), VIOLATION),
    case("an ATTACH on the path that is in use", |s| {
        s.attach(FIRST, text().challenge(QUESTION));
        assert_eq!(s.answered_on(FIRST), 1);
        assert_eq!(s.victim.candidate_path(), None);
    }, Ends::Goes),
    case("an ATTACH with a stream in it", |s| {
        s.attach(NEW, text().challenge(QUESTION).open_port(0).stream(0, 0, b"early"));
        assert_eq!(s.read(0), b"early");
        still_on(s, FIRST);
    }, Ends::Goes),
    case("an ATTACH with a stream id of the wrong side", |s| {
        s.attach(NEW, text().challenge(QUESTION).open_port(1));
    }, VIOLATION),
    case("a thousand ATTACHes on a thousand paths", |s| {
        for path in 100..1100 {
            s.attach(PathId(path), text().challenge(QUESTION));
        }
        assert_eq!(s.victim.candidate_path(), Some(PathId(1099)));
        still_on(s, FIRST);
    }, Ends::Goes),
    case("an ATTACH whose challenge is never answered", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        s.pass(Time::from_secs(11));
        assert_eq!(s.victim.candidate_path(), None);
        let asked = s.heard.iter().filter(|(path, _)| *path == NEW).count();
        assert!(asked < 30, "{asked} frames to whoever does not answer");
        still_on(s, FIRST);
    }, Ends::Goes),
    case("an answer after the path was given up", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        let challenge = s.challenge_on(NEW).unwrap();
        s.pass(Time::from_secs(11));
        s.say_on(NEW, text().response(challenge));
        still_on(s, FIRST);
    }, Ends::Goes),
    case("an ATTACH by whoever answers", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        nothing_on(s, NEW);
        s.evil.next -= 1;
    }, Ends::Goes).answering(),
    case("an ATTACH during the handshake", |s| {
        s.handshake(|plan| plan.greeting = Some(text().ping()));
        s.attach(NEW, text().challenge(QUESTION));
        s.say(text().good_settings());
    }, Ends::Goes).fresh(),
    // --- challenge and answer
    case("a PATH_RESPONSE to what was never asked", |s| {
        s.say(text().response(QUESTION));
        s.say_on(NEW, text().response(QUESTION));
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("a PATH_RESPONSE of other bytes", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        let mut challenge = s.challenge_on(NEW).unwrap();
        challenge[7] ^= 1;
        s.say_on(NEW, text().response(challenge));
        still_on(s, FIRST);
    }, Ends::Goes),
    case("the right PATH_RESPONSE on the old path", |s| answered_elsewhere(s, FIRST), Ends::Goes),
    case("the right PATH_RESPONSE on a third path", |s| answered_elsewhere(s, THIRD), Ends::Goes),
    case("the right PATH_RESPONSE twice", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        let challenge = s.challenge_on(NEW).unwrap();
        (0..2).for_each(|_| s.say_on(NEW, text().response(challenge)));
        assert_eq!(s.victim.stats().moves, 1);
    }, Ends::Goes),
    case("the answer for one path on the next", |s| {
        s.attach(NEW, text().challenge(QUESTION));
        let challenge = s.challenge_on(NEW).unwrap();
        s.attach(THIRD, text().challenge(QUESTION));
        assert_ne!(s.challenge_on(THIRD), Some(challenge), "fresh for each path");
        s.say_on(THIRD, text().response(challenge));
        still_on(s, FIRST);
    }, Ends::Goes),
    case("a PATH_CHALLENGE on the path in use is answered there", |s| {
        s.say(text().challenge(QUESTION));
        assert_eq!(s.answered_on(FIRST), 1);
    }, Ends::Goes),
    case("a PATH_CHALLENGE on a path that nobody tries", |s| {
        s.say_on(NEW, text().challenge(QUESTION));
        nothing_on(s, NEW);
    }, Ends::Goes),
    case("a hundred PATH_CHALLENGEs in one record", |s| {
        s.say((0..100).fold(text(), |text, _| text.challenge(QUESTION)));
        assert!(s.answered_on(FIRST) <= 1);
    }, Ends::Goes),
    case("records on a path that nobody tries do not move anything", |s| {
        s.say_on(NEW, text().open_port(0).stream(0, 0, b"from afar"));
        assert_eq!(s.read(0), b"from afar");
        nothing_on(s, NEW);
    }, Ends::Goes),
    // --- losing the path
    case("records after the path was lost are no new path", |s| {
        let now = at(s.at);
        s.victim.path_lost(now, FIRST);
        s.heard.clear();
        s.say_on(NEW, text().ping());
        s.pass(Time::from_secs(1));
        assert!(s.heard.is_empty(), "{:?}", s.heard);
        s.attach(NEW, text().challenge(QUESTION));
        let challenge = s.challenge_on(NEW).unwrap();
        s.say_on(NEW, text().response(challenge));
    }, Ends::Goes),
    case("nobody comes back", |s| {
        let now = at(s.at);
        s.victim.path_lost(now, FIRST);
        s.pass(Time::from_secs(121));
    }, Ends::ClosesSilently("link-lost")),
];

#[test]
fn paths() {
    run(CASES);
}

/// A good ATTACH, and then the same packet on `path`.
fn replayed(scene: &mut Scene, path: PathId) {
    let attach = scene.evil.seal_attach(&text().challenge(QUESTION).0);
    scene.deliver_on(NEW, &attach);
    let heard = scene.heard.len();
    scene.deliver_on(path, &attach);
    assert_eq!(scene.heard.len(), heard, "the second one was answered");
    assert_eq!(scene.victim.candidate_path(), Some(NEW));
    still_on(scene, FIRST);
}

fn answered_elsewhere(scene: &mut Scene, path: PathId) {
    scene.attach(NEW, text().challenge(QUESTION));
    let challenge = scene.challenge_on(NEW).unwrap();
    scene.say_on(path, text().response(challenge));
    still_on(scene, FIRST);
}

fn still_on(scene: &Scene, path: PathId) {
    assert_eq!(scene.victim.active_path(), Some(path));
}

/// The victim has not moved to this path, does not try it, and says nothing there.
fn nothing_on(scene: &mut Scene, path: PathId) {
    scene.pass(Time::from_secs(1));
    let heard = scene.heard.iter().filter(|(on, _)| *on == path).count();
    assert_eq!(heard, 0, "{:?}", scene.heard);
    assert_ne!(scene.victim.active_path(), Some(path));
    assert_eq!(scene.victim.candidate_path(), None);
}

impl Scene {
    /// How often [`QUESTION`] was answered on a path.
    fn answered_on(&self, path: PathId) -> usize {
        let answer = (path, Heard::Response(QUESTION));
        self.heard.iter().filter(|&heard| *heard == answer).count()
    }
}
