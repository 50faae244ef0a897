//! control/SPEC.md sections 1 to 3: an endpoint that cheats on its link to a
//! relay. The links of others, and their circuits, go on.

use bytes::BytesMut;
use fairway_control::limits::{
    CIRCUIT_CREDIT, CIRCUIT_CREDIT_MAX, LINK_DATAGRAM_MAX, LINK_PAYLOAD_MAX,
};
use fairway_control::link::{
    CircuitId, FrameKind, Instance, ToEndpoint, ToRelay, header, take_run,
};
use fairway_control::{FrameReader, Reason, frame};
use fairway_identity::{Address, Clock, Form};
use fairway_relay::core::{Core, Forward, LinkId, Output, Settings, Time, Who};
use fairway_sim::authority::{Authority, START};

use crate::scene::{NAME, broker, pump};

/// How a case ends. In all of them the honest circuit goes on.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// Nothing happened: a good circuit can be opened on the link.
    Goes,
    /// The relay closes the link with this word.
    LinkCloses(&'static str),
    /// The bytes are no frames or messages: whoever reads them closes the link.
    Unreadable,
    /// The relay refuses or closes what was asked for with this word, and the
    /// link goes on.
    Told(&'static str),
}

pub(crate) struct Case {
    name: &'static str,
    attack: fn(&mut Board),
    ends: Ends,
}

const fn case(name: &'static str, attack: fn(&mut Board), ends: Ends) -> Case {
    Case { name, attack, ends }
}

const PUMP: &str = "pump-7.factory.device.fairway.internal";
const NOW: Time = Time::from_secs(100);

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- section 1: messages
    case("a message of no length", |b| b.stream(&[0; 4]), Ends::Unreadable),
    case("a message longer than may be", |b| b.stream(&[0, 0, 0x40, 1]), Ends::Unreadable),
    case("a message of 4 GiB", |b| b.stream(&[0xff; 4]), Ends::Unreadable),
    case("a message of another version", |b| b.changed(|m| m[4] = 2), Ends::Unreadable),
    case("a message of random bytes", |b| b.stream(&[0, 0, 0, 4, 1, 0x9f, 0x9f, 0x9f]), Ends::Unreadable),
    case("a message and a byte", |b| b.changed(|m| { m[3] += 1; m.push(0) }), Ends::Unreadable),
    case("a message that nobody knows", |b| b.stream(&[0, 0, 0, 5, 1, 0x82, 0x18, 99, 0x80]), Ends::Unreadable),
    case("a message cut by a byte, with a length to match", |b| b.changed(|m| { m[3] -= 1; m.pop(); }), Ends::Unreadable),
    case("half a message", |b| b.changed(|m| m.truncate(9)), Ends::Goes),
    case("a registration of 41 names", |b| {
        let names = (0..41).map(|n| address(&format!("s{n}.factory.svc.fairway.internal")));
        let message = ToRelay::Register { names: names.collect(), instance: Instance([7; 16]) };
        assert!(frame(&message).is_err(), "we could not even send it");
        b.unreadable = true;
    }, Ends::Unreadable),
    // --- section 2: frames
    case("a frame of a reserved type", |b| b.bytes(&[3, 0, 0, 1, 0, 0, 0, 2, 9]), Ends::Unreadable),
    case("a frame of type 255", |b| b.bytes(&[255, 0, 0, 1, 0, 0, 0, 2, 9]), Ends::Unreadable),
    case("a REFUSED from an endpoint", |b| b.bytes(&[1, 0, 0, 0, 0, 0, 0, 0]), Ends::Unreadable),
    case("a frame one byte longer than may be", |b| b.bytes(&too_long()), Ends::Unreadable),
    case("a frame of 16 MiB", |b| b.bytes(&[0, 255, 255, 255, 0, 0, 0, 2]), Ends::Unreadable),
    case("half a frame", |b| b.bytes(&[0, 0, 1, 0, 0, 0, 0, 2, 9]), Ends::Goes),
    case("a frame of the largest size", |b| { b.open(2, NAME); b.data(2, LINK_PAYLOAD_MAX) }, Ends::Goes),
    case("an empty frame", |b| { b.open(2, NAME); b.data(2, 0) }, Ends::Goes),
    case("ten thousand empty frames", |b| { b.open(2, NAME); (0..10_000).for_each(|_| b.data(2, 0)) }, Ends::Goes),
    case("a datagram one byte longer than may be", |b| {
        b.bytes(&[2, 0, 5, 1, 0, 0, 0, 2]);
        assert_eq!(LINK_DATAGRAM_MAX, 0x500);
    }, Ends::Unreadable),
    case("two windows of datagrams, which no credit counts", |b| {
        b.open(2, NAME);
        (0..2 * CIRCUIT_CREDIT as usize / LINK_DATAGRAM_MAX).for_each(|_| b.datagram(2));
    }, Ends::Goes),
    case("a datagram on a circuit that is not", |b| b.datagram(8), Ends::Goes),
    case("data on a circuit that is not", |b| b.data(8, 100), Ends::Goes),
    case("data on a circuit of somebody else's", |b| { b.data(4, 100); b.data(3, 100) }, Ends::Goes),
    case("data on the relay's own number", |b| b.data(1, 100), Ends::Goes),
    case("data after the circuit was closed", |b| { b.open(2, NAME); b.close(2); b.data(2, 100) }, Ends::Goes),
    // --- section 3: circuits
    case("an id of the relay's side", |b| b.open(3, NAME), Ends::LinkCloses("protocol-violation")),
    case("circuit 0", |b| b.open(0, NAME), Ends::LinkCloses("protocol-violation")),
    case("an id that is in use", |b| { b.open(2, NAME); b.open(2, NAME) }, Ends::LinkCloses("protocol-violation")),
    case("a name that nobody has", |b| b.open(2, "gone.factory.svc.fairway.internal"), Ends::Told("not-here")),
    case("an instance that is not", |b| b.open_to(2, NAME, Some(Instance([99; 16]))), Ends::Told("other-instance")),
    case("a relay's name", |b| b.open(2, "relay.fairway.internal"), Ends::Told("forbidden")),
    case("another device", |b| b.open(2, "pump-1.factory.device.fairway.internal"), Ends::Told("forbidden")),
    case("33 circuits to one callee", |b| (1..=33).for_each(|n| b.open(2 * n, NAME)), Ends::Told("overloaded")),
    case("circuits without end", |b| {
        for n in 1..=2000 { b.open(2 * n, NAME); b.close(2 * n) }
    }, Ends::Told("overloaded")),
    case("a circuit closed that is not", |b| b.close(44), Ends::Goes),
    case("a circuit closed twice", |b| { b.open(2, NAME); b.close(2); b.close(2) }, Ends::Goes),
    case("a callee's circuit closed by its number", |b| { b.close(1); b.close(3) }, Ends::Goes),
    case("a Move of what did not come in", |b| { b.open(2, NAME); b.say(ToRelay::Move { circuit: CircuitId(2) }) }, Ends::Goes),
    case("a Move of what is not", |b| b.say(ToRelay::Move { circuit: CircuitId(77) }), Ends::Goes),
    // --- section 3: credit
    case("all of the credit", |b| { b.open(2, NAME); b.flood(CIRCUIT_CREDIT) }, Ends::Goes),
    case("a byte beyond the credit", |b| { b.open(2, NAME); b.flood(CIRCUIT_CREDIT + 1) }, Ends::Told("credit-overrun")),
    case("credit for what was never sent", |b| { b.open(2, NAME); b.credit(2, CIRCUIT_CREDIT_MAX + 1) }, Ends::Told("protocol-violation")),
    case("credit for 2^64 - 1 bytes", |b| { b.open(2, NAME); b.credit(2, u64::MAX) }, Ends::Told("protocol-violation")),
    case("credit that falls", |b| { b.open(2, NAME); b.credit(2, 1); b.credit(2, 0) }, Ends::Goes),
    case("credit by the byte", |b| {
        b.open(2, NAME);
        (0..10_000).for_each(|n| b.credit(2, n));
        assert!(b.core.take_messages(b.callee).len() < 100);
    }, Ends::Goes),
    case("credit for a circuit that is not", |b| b.credit(66, 5), Ends::Goes),
    case("credit for somebody else's circuit", |b| { b.credit(4, 5); b.credit(3, 5); b.credit(1, 5) }, Ends::Goes),
    // --- section 3: names
    case("another device's name", |b| b.register("pump-1.factory.device.fairway.internal", 7), Ends::Told("name-not-yours")),
    case("a Service's name", |b| b.register(NAME, 7), Ends::Told("name-not-yours")),
    case("the authority's name", |b| b.register("authority.fairway.internal", 7), Ends::Told("name-not-yours")),
    case("the relay's name", |b| b.register("relay.fairway.internal", 7), Ends::Told("name-not-yours")),
    case("a second instance on one link", |b| { b.register(PUMP, 7); b.register(PUMP, 8) }, Ends::LinkCloses("protocol-violation")),
    case("names registered without end", |b| (0..2000).for_each(|_| b.register(PUMP, 7)), Ends::LinkCloses("overloaded")),
    case("somebody else's name taken away", |b| {
        b.say(ToRelay::Deregister { names: vec![address(NAME)] });
    }, Ends::Goes),
];

#[test]
fn links() {
    for case in CASES {
        println!("{}", case.name);
        let mut board = Board::new();
        (case.attack)(&mut board);
        board.check(case.ends);
    }
}

/// A relay with an honest circuit, and the evil peer's link.
pub(crate) struct Board {
    core: Core,
    callee: LinkId,
    honest: LinkId,
    evil: LinkId,
    reader: FrameReader,
    buffer: BytesMut,
    /// What was said to the evil peer.
    told: Vec<ToEndpoint>,
    unreadable: bool,
}

impl Board {
    fn new() -> Self {
        let mut authority = Authority::new("fairway.local", 1);
        let mut core = Core::new(Settings::default());
        core.set_trust(authority.trust().clone());
        let who = |authority: &mut Authority, name: &str, secret: u8| {
            let claims = match name {
                "mosquitto" => broker(authority, name, secret),
                _ => pump(authority, name, secret),
            };
            let [_, full] = authority.issue(&claims);
            let clock = Clock::Trusted(START);
            let trust = authority.trust();
            let key = &claims.handshake_key;
            Who::Verified(
                trust
                    .verify_credential(&full, Form::Full, key, clock)
                    .unwrap(),
            )
        };
        let mut link = |name, secret| {
            core.link_up(NOW, who(&mut authority, name, secret))
                .unwrap()
        };
        let (callee, honest, evil) = (link("mosquitto", 8), link("pump-1", 9), link("pump-7", 66));
        let mut board = Self {
            core,
            callee,
            honest,
            evil,
            reader: FrameReader::new(),
            buffer: BytesMut::new(),
            told: Vec::new(),
            unreadable: false,
        };
        let (names, instance) = (vec![address(NAME)], Instance([8; 16]));
        let register = ToRelay::Register { names, instance };
        board.core.handle_message(NOW, callee, register);
        let open = open(4, NAME, None);
        board.core.handle_message(NOW, honest, open);
        board.core.take_messages(callee);
        board.core.take_messages(honest);
        board
    }

    // --- what the evil peer does

    fn say(&mut self, message: ToRelay) {
        self.core.handle_message(NOW, self.evil, message);
        self.told.extend(self.core.take_messages(self.evil));
    }

    /// Bytes of its control stream.
    fn stream(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
        loop {
            match self.reader.next_message::<ToRelay>() {
                Ok(Some(message)) => self.say(message),
                Ok(None) => return,
                Err(_) => return self.unreadable = true,
            }
        }
    }

    /// A good message, changed.
    fn changed(&mut self, change: fn(&mut Vec<u8>)) {
        let mut bytes = frame(&open(2, NAME, None)).unwrap();
        change(&mut bytes);
        self.stream(&bytes);
    }

    /// Bytes of its link.
    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        loop {
            match take_run(&mut self.buffer, usize::MAX) {
                Ok(Some(run)) => {
                    let (circuit, length) = (run.circuit(), run.payload_len());
                    let to = match run.kind() {
                        FrameKind::Datagram => {
                            self.core.forward_datagrams(NOW, self.evil, circuit, length)
                        }
                        FrameKind::Data | FrameKind::Refused => {
                            self.core.forward(NOW, self.evil, circuit, length)
                        }
                    };
                    assert!(to == Forward::Drop || circuit == CircuitId(2), "{to:?}");
                    self.told.extend(self.core.take_messages(self.evil));
                }
                Ok(None) => return,
                Err(_) => return self.unreadable = true,
            }
        }
    }

    fn data(&mut self, circuit: u32, length: usize) {
        let head = header(FrameKind::Data, CircuitId(circuit), length).unwrap();
        self.bytes(&[&head[..], &vec![7; length]].concat());
    }

    fn datagram(&mut self, circuit: u32) {
        let head = header(FrameKind::Datagram, CircuitId(circuit), LINK_DATAGRAM_MAX).unwrap();
        self.bytes(&[&head[..], &[7; LINK_DATAGRAM_MAX]].concat());
    }

    /// So many bytes on circuit 2.
    fn flood(&mut self, mut bytes: u64) {
        while bytes > 0 {
            let length = bytes.min(LINK_PAYLOAD_MAX as u64);
            self.data(2, length as usize);
            bytes -= length;
        }
    }

    fn open(&mut self, circuit: u32, name: &str) {
        self.open_to(circuit, name, None);
    }

    fn open_to(&mut self, circuit: u32, name: &str, instance: Option<Instance>) {
        self.say(open(circuit, name, instance));
    }

    fn close(&mut self, circuit: u32) {
        let (circuit, reason) = (CircuitId(circuit), Reason::new("done", ""));
        self.say(ToRelay::Close { circuit, reason });
    }

    fn credit(&mut self, circuit: u32, max_bytes: u64) {
        let circuit = CircuitId(circuit);
        self.say(ToRelay::Credit { circuit, max_bytes });
    }

    fn register(&mut self, name: &str, instance: u8) {
        let (names, instance) = (vec![address(name)], Instance([instance; 16]));
        self.say(ToRelay::Register { names, instance });
    }

    // --- what came of it

    fn check(&mut self, ends: Ends) {
        let closed: Vec<_> = std::iter::from_fn(|| self.core.poll_output())
            .filter_map(|output| match output {
                Output::CloseLink { link, reason } => Some((link, reason.word().to_owned())),
                _ => None,
            })
            .collect();
        let words: Vec<&str> = self.told.iter().filter_map(word).collect();
        let fine = match ends {
            Ends::Goes => closed.is_empty() && !self.unreadable && words.is_empty(),
            Ends::Told(word) => closed.is_empty() && !self.unreadable && words.contains(&word),
            Ends::LinkCloses(word) => closed == [(self.evil, word.to_owned())],
            Ends::Unreadable => self.unreadable && closed.is_empty(),
        };
        assert!(fine, "{ends:?}: {closed:?}, {words:?}");
        if matches!(ends, Ends::Goes) {
            self.told.clear();
            self.open(40_000, NAME);
            let opened = ToEndpoint::Opened {
                circuit: CircuitId(40_000),
            };
            assert_eq!(self.told, [opened]);
        }
        // The honest circuit has all of its credit, in both directions.
        let circuit = |board: &mut Self, from, circuit, to| {
            for _ in 0..CIRCUIT_CREDIT / 16_384 {
                let forward = board.core.forward(NOW, from, CircuitId(circuit), 16_384);
                assert!(matches!(forward, Forward::To(link, _) if link == to));
            }
        };
        circuit(self, self.honest, 4, self.callee);
        circuit(self, self.callee, 1, self.honest);
    }
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn open(circuit: u32, name: &str, instance: Option<Instance>) -> ToRelay {
    ToRelay::Open {
        circuit: CircuitId(circuit),
        destination: address(name),
        instance,
    }
}

fn too_long() -> Vec<u8> {
    let [_, a, b, c] = (LINK_PAYLOAD_MAX as u32 + 1).to_be_bytes();
    vec![0, a, b, c, 0, 0, 0, 2]
}

/// The word with which the relay refuses or ends something.
fn word(message: &ToEndpoint) -> Option<&str> {
    match message {
        ToEndpoint::RegisterRefused { reason, .. }
        | ToEndpoint::Refused { reason, .. }
        | ToEndpoint::Closed { reason, .. } => Some(reason.word()),
        ToEndpoint::Registered { .. }
        | ToEndpoint::Incoming { .. }
        | ToEndpoint::Opened { .. }
        | ToEndpoint::Credit { .. }
        | ToEndpoint::Drain
        | ToEndpoint::Move { .. } => None,
    }
}
