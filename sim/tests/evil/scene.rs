//! The endpoint under attack, with somebody honest on another of its sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fairway_identity::{Address, Clock, CredentialClaims};
use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, Mode, Policy, PolicySet, Protocol,
};
use fairway_session::{
    Batch, Code, Config, Doors, Event, Grant, Local, Now, OpenRequest, Output, PathId, ReadOutcome,
    Rules, Session, StreamId, Time, code, peek_attach,
};
use fairway_sim::authority::{Authority, START, label};

use crate::peer::{self, Key, Noise, Split, Trick};
use crate::wire::{self, Heard, Text, text};

/// Who dials in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The evil peer dials, the victim answers.
    Dials,
    /// The victim dials, the evil peer answers.
    Answers,
}

/// How a case has to end. In all of them the victim's other session goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    /// Nothing happened: the session is established and answers.
    Goes,
    /// The victim closes the session with this word, and says so.
    Closes(&'static str),
    /// The victim closes it, and cannot or must not say why.
    ClosesSilently(&'static str),
    /// The victim resets the one stream there is with this word; the session goes on.
    Resets(&'static str),
}

/// One thing that an evil peer does.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    role: Role,
    /// The session is established before the attack.
    begun: bool,
    attack: fn(&mut Scene),
    ends: Ends,
}

/// An attack within an established session that the evil peer has dialled.
pub(crate) const fn case(name: &'static str, attack: fn(&mut Scene), ends: Ends) -> Case {
    Case {
        name,
        role: Role::Dials,
        begun: true,
        attack,
        ends,
    }
}

impl Case {
    /// The evil peer answers.
    pub(crate) const fn answering(self) -> Self {
        Self {
            role: Role::Answers,
            ..self
        }
    }

    /// The attack is on the handshake.
    pub(crate) const fn fresh(self) -> Self {
        Self {
            begun: false,
            ..self
        }
    }

    fn run(&self) -> Result<(), String> {
        self.run_with(self.attack)
    }

    /// With another attack than its own.
    pub(crate) fn run_with(&self, attack: impl FnOnce(&mut Scene)) -> Result<(), String> {
        let mut scene = Scene::new(self.role);
        if self.begun {
            scene.handshake(|_| {});
            scene.expect_established();
            // Renewals are a second apart.
            scene.pass(Time::from_millis(1500));
            scene.heard.clear();
        }
        attack(&mut scene);
        scene.check(self.ends)?;
        scene.bystander.check(scene.at)
    }
}

/// Runs the cases of a subject.
pub(crate) fn run(cases: &[Case]) {
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            println!("{}", case.name);
            let failed = case.run().err()?;
            Some(format!("{}: {failed}", case.name))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// How the evil peer goes about its handshake; by default it is good.
pub(crate) struct Plan {
    /// The clear header of message 1, where it dials.
    pub(crate) header: Vec<u8>,
    pub(crate) secret: u8,
    pub(crate) trick: Trick,
    /// Of message 3, or of message 2.
    pub(crate) hello: Vec<u8>,
    /// Of the HELLO frame, where it answers.
    pub(crate) last_hello: Vec<u8>,
    /// Changes the packet with this number before it is sent.
    pub(crate) mangle: fn(u8, &mut Vec<u8>),
    /// How often each packet is sent.
    pub(crate) times: usize,
    /// What it sends in its first record.
    pub(crate) greeting: Option<Text>,
}

/// The evil peer's keys and numbers.
pub(crate) struct Evil {
    pub(crate) role: Role,
    keys: Option<Split>,
    /// Keys of the epoch before.
    pub(crate) old_keys: Option<Split>,
    pub(crate) hash: [u8; 32],
    pub(crate) epoch: u64,
    /// The next packet number.
    pub(crate) next: u64,
}

/// A victim with two sessions, and the evil peer at one of them.
pub(crate) struct Scene {
    pub(crate) at: Time,
    pub(crate) authority: Authority,
    pub(crate) victim: Session,
    pub(crate) rules: Rules,
    pub(crate) events: Vec<Event>,
    grants: Vec<Grant>,
    timeout: Option<Time>,
    /// The victim's packets, as they came.
    pub(crate) packets: Vec<(PathId, Vec<u8>)>,
    /// What was in those that were records.
    pub(crate) heard: Vec<(PathId, Heard)>,
    pub(crate) evil: Evil,
    pub(crate) bystander: Bystander,
}

/// Secrets are one byte here.
pub(crate) const EVIL: u8 = 66;
const VICTIM: u8 = 8;
const HONEST: u8 = 9;

/// The path of the handshake.
pub(crate) const FIRST: PathId = PathId::FIRST;

/// The name that is dialled.
pub(crate) const NAME: &str = "broker.factory.svc.fairway.internal";

pub(crate) fn at(time: Time) -> Now {
    Now {
        mono: time,
        clock: Clock::Trusted(START.plus(time.as_secs())),
    }
}

/// Small windows: a channel for 3,000 bytes, a stream for 2,000, 4 streams.
fn config() -> Config {
    Config::new()
        .stream_window(2000)
        .and_then(|config| config.session_window(3000))
        .and_then(|config| config.max_streams(4))
        .unwrap()
}

/// Pumps may use port 1883 of the broker.
fn rules() -> Rules {
    let mut doors = Doors::new();
    let (factory, broker) = (label("factory"), label("broker"));
    doors
        .add_service(factory.clone(), broker.clone(), 1883, 11883)
        .unwrap();
    doors.add_service(factory, broker, 80, 8080).unwrap();
    let pumps = CallerRule::Devices {
        namespaces: vec!["factory".to_owned()],
        names: vec![],
        attributes: AttributeSelector {
            match_attributes: BTreeMap::from([("model".to_owned(), "pump".to_owned())]),
            expressions: vec![],
        },
    };
    let policy = Policy {
        namespace: "factory".to_owned(),
        name: "pumps".to_owned(),
        action: Action::Allow,
        mode: Mode::Enforce,
        from: vec![pumps],
        to: vec![Door::Port {
            port: 11883,
            protocol: Protocol::Tcp,
        }],
    };
    Rules {
        policy: Arc::new(PolicySet {
            policies: vec![policy],
        }),
        doors: Arc::new(doors),
        ..Rules::default()
    }
}

/// What a credential says of whoever is the device `name`.
pub(crate) fn pump(authority: &mut Authority, name: &str, secret: u8) -> CredentialClaims {
    let id = authority.device("factory", name);
    let mut claims = authority.claims(id, peer::secret(secret).public(), START);
    claims.attributes = BTreeMap::from([("model".to_owned(), "pump".to_owned())]);
    claims
}

/// What a credential says of the workload behind the broker.
pub(crate) fn broker(authority: &mut Authority, account: &str, secret: u8) -> CredentialClaims {
    let id = authority.workload("factory", account);
    let mut claims = authority.claims(id, peer::secret(secret).public(), START);
    claims.services = vec![label("broker")];
    claims
}

/// A hello as CBOR.
pub(crate) fn hello(credential: Option<&[u8]>, trust: Option<&[u8]>, instance: u8) -> Vec<u8> {
    let fields = 1 + u8::from(credential.is_some()) + u8::from(trust.is_some());
    let mut out = vec![0xa0 | fields];
    for (key, bytes) in [(0, credential), (1, trust)] {
        let Some(bytes) = bytes else { continue };
        out.extend_from_slice(&[key, 0x59]);
        out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[2, 0x50]);
    out.extend_from_slice(&[instance; 16]);
    out
}

impl Scene {
    fn new(role: Role) -> Self {
        let mut authority = Authority::new("fairway.local", 1);
        let local = |authority: &mut Authority, dials: bool, secret: u8| {
            let claims = match dials {
                true => pump(authority, "pump-1", secret),
                false => broker(authority, "mosquitto", secret),
            };
            authority.local(peer::secret(secret), &claims, [secret; 16])
        };
        let name: Address = NAME.parse().unwrap();
        let dial = |local: Local, seed| {
            let (rules, name) = (rules(), name.clone());
            Session::dial(config(), local, rules, name, [seed; 32], at(Time::ZERO)).unwrap()
        };
        let answer = |local: Local, seed| {
            let names = [name.clone()].into();
            Session::answer(config(), local, rules(), names, [seed; 32], at(Time::ZERO)).unwrap()
        };
        let victim_dials = role == Role::Answers;
        let mine = local(&mut authority, victim_dials, VICTIM);
        let theirs = local(&mut authority, !victim_dials, HONEST);
        let (victim, dialler, answerer) = match victim_dials {
            true => (dial(mine.clone(), 1), dial(mine, 2), answer(theirs, 3)),
            false => (answer(mine.clone(), 1), dial(theirs, 3), answer(mine, 2)),
        };
        let mut scene = Self {
            at: Time::ZERO,
            authority,
            victim,
            rules: rules(),
            events: Vec::new(),
            grants: Vec::new(),
            timeout: None,
            packets: Vec::new(),
            heard: Vec::new(),
            evil: Evil {
                role,
                keys: None,
                old_keys: None,
                hash: [0; 32],
                epoch: 0,
                next: 0,
            },
            bystander: Bystander::new(dialler, answerer, victim_dials),
        };
        scene.drain();
        scene
    }

    /// Another endpoint like this one, in a session with another evil peer.
    pub(crate) fn other() -> Self {
        let mut other = Self::new(Role::Dials);
        other.handshake(|_| {});
        other.expect_established();
        other
    }

    // --- the handshake ---

    /// Goes through the handshake as far as the victim lets it.
    pub(crate) fn handshake(&mut self, change: impl FnOnce(&mut Plan)) {
        let mut plan = self.plan();
        change(&mut plan);
        match self.evil.role {
            Role::Dials => self.dial(plan),
            Role::Answers => self.answer(plan),
        }
    }

    /// A good one.
    pub(crate) fn plan(&mut self) -> Plan {
        let claims = self.claims(EVIL);
        let (hello, last_hello) = self.hellos(&claims);
        Plan {
            header: header(1, 1, 0, NAME.as_bytes()),
            secret: EVIL,
            trick: Trick::default(),
            hello,
            last_hello,
            mangle: |_, _| {},
            times: 1,
            greeting: None,
        }
    }

    /// What a good credential of the evil peer says.
    pub(crate) fn claims(&mut self, secret: u8) -> CredentialClaims {
        match self.evil.role {
            Role::Dials => pump(&mut self.authority, "pump-7", secret),
            Role::Answers => broker(&mut self.authority, "mosquitto", secret),
        }
    }

    /// The hellos of whoever has these claims: the first and, where it
    /// answers, the last.
    pub(crate) fn hellos(&self, claims: &CredentialClaims) -> (Vec<u8>, Vec<u8>) {
        let [lean, full] = self.authority.issue(claims);
        let last = hello(Some(&full), None, EVIL);
        let first = match self.evil.role {
            Role::Dials => last.clone(),
            Role::Answers => {
                let trust = self.authority.trust().bytes();
                hello(Some(&lean), Some(trust), EVIL)
            }
        };
        (first, last)
    }

    fn dial(&mut self, plan: Plan) {
        let mut noise = Noise::new(true, plan.secret, &plan.header, plan.trick);
        let mut first = [&plan.header[..], &noise.first()].concat();
        (plan.mangle)(1, &mut first);
        (0..plan.times).for_each(|_| self.deliver(&first));
        let Some(second) = self.packet(2) else { return };
        let (third, _) = noise.third(&second[1..], &plan.hello);
        let mut third = [&[3][..], &third].concat();
        (plan.mangle)(3, &mut third);
        self.evil.begin(noise.split(b""));
        (0..plan.times).for_each(|_| self.deliver(&third));
        self.say(plan.greeting.unwrap_or_else(|| text().good_settings()));
    }

    fn answer(&mut self, plan: Plan) {
        let first = self.packet(1).expect("the victim dials");
        let (prologue, message) = first.split_at(5 + NAME.len());
        let mut noise = Noise::new(false, plan.secret, prologue, plan.trick);
        let second = noise.second(message, &plan.hello);
        let mut second = [&[2][..], &second].concat();
        (plan.mangle)(2, &mut second);
        (0..plan.times).for_each(|_| self.deliver(&second));
        let Some(third) = self.packet(3) else { return };
        if noise.read_third(&third[1..]).is_none() {
            return;
        }
        self.evil.begin(noise.split(b""));
        let good = || text().good_settings().hello(&plan.last_hello);
        self.say(plan.greeting.unwrap_or_else(good));
    }

    /// Takes a handshake packet of the victim's.
    pub(crate) fn packet(&mut self, kind: u8) -> Option<Vec<u8>> {
        let at = self.packets.iter().position(|(_, p)| p[0] == kind)?;
        Some(self.packets.remove(at).1)
    }

    pub(crate) fn expect_established(&self) {
        assert!(self.victim.is_established(), "{:?}", self.events);
    }

    // --- records ---

    /// Seals a text in the evil peer's next record and sends it.
    pub(crate) fn say(&mut self, text: Text) {
        self.say_on(FIRST, text);
    }

    /// The same on another path.
    pub(crate) fn say_on(&mut self, path: PathId, text: Text) {
        let record = self.evil.seal(&text.0);
        self.deliver_on(path, &record);
    }

    /// An ATTACH on a path.
    pub(crate) fn attach(&mut self, path: PathId, text: Text) {
        let attach = self.evil.seal_attach(&text.0);
        self.deliver_on(path, &attach);
    }

    /// Hands the victim a packet.
    pub(crate) fn deliver(&mut self, packet: &[u8]) {
        self.deliver_on(FIRST, packet);
    }

    pub(crate) fn deliver_on(&mut self, path: PathId, packet: &[u8]) {
        // As endpoints do: the session is found by the connection id.
        if path != FIRST
            && packet.first() == Some(&5)
            && peek_attach(packet) != self.victim.connection_id()
        {
            return;
        }
        let now = at(self.at);
        self.victim.handle_input(now, path, BytesMut::from(packet));
        self.drain();
    }

    /// Hands the victim many packets before it can say a word.
    pub(crate) fn deliver_all(&mut self, packets: &[Vec<u8>]) {
        let now = at(self.at);
        for packet in packets {
            let packet = BytesMut::from(&packet[..]);
            self.victim.handle_input(now, FIRST, packet);
        }
        self.drain();
    }

    /// Lets time pass for everybody.
    pub(crate) fn pass(&mut self, time: Time) {
        let end = self.at + time;
        loop {
            self.drain();
            let timeouts = [self.timeout, self.bystander.timeout];
            let next = timeouts.into_iter().flatten().min();
            let Some(next) = next.filter(|&next| next <= end) else {
                self.at = end;
                return;
            };
            self.at = self.at.max(next);
            self.victim.handle_timeout(at(self.at));
            self.bystander.on_timeout(self.at);
        }
    }

    pub(crate) fn drain(&mut self) {
        let mut batch = Batch::new(0);
        loop {
            match self.victim.poll_output(at(self.at), &mut batch) {
                Output::Transmit { path } => {
                    let packets: Vec<_> = batch.packets_mut().map(|p| p.to_vec()).collect();
                    batch.clear();
                    for packet in packets {
                        self.hear(path, packet);
                    }
                }
                Output::Event(Event::Incoming { grant, .. }) => {
                    // Opened and reset in one record: too late.
                    let _ = self.victim.accept(at(self.at), &grant);
                    self.grants.push(grant);
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(timeout) => {
                    self.timeout = timeout;
                    return;
                }
            }
        }
    }

    fn hear(&mut self, path: PathId, packet: Vec<u8>) {
        if matches!(packet[0], 4..=6)
            && let Some(text) = self.evil.open(&packet)
        {
            let frames = wire::frames(&text).into_iter();
            self.heard.extend(frames.map(|frame| (path, frame)));
        }
        self.packets.push((path, packet));
    }

    /// The first frame that was heard and is liked.
    pub(crate) fn find<T>(&self, wanted: impl Fn(&Heard) -> Option<T>) -> Option<T> {
        self.heard.iter().find_map(|(_, frame)| wanted(frame))
    }

    /// The victim's challenge on a path.
    pub(crate) fn challenge_on(&self, path: PathId) -> Option<[u8; 8]> {
        self.heard.iter().find_map(|(on, frame)| match frame {
            Heard::Challenge(challenge) if *on == path => Some(*challenge),
            _ => None,
        })
    }

    // --- renewal ---

    /// The prologue of a renewal to `epoch`.
    pub(crate) fn renewal_prologue(&self, epoch: u64) -> Vec<u8> {
        peer::renewal_prologue(&self.evil.keys().secret, epoch)
    }

    /// The evil peer, who has dialled, renews the keys, with these claims; the
    /// switch is left to be done.
    pub(crate) fn renew(&mut self, secret: u8, hello: &[u8]) -> Split {
        let epoch = self.evil.epoch + 1;
        let mut noise = Noise::new(
            true,
            secret,
            &self.renewal_prologue(epoch),
            Trick::default(),
        );
        let first = noise.first();
        self.say(text().renew(epoch, 1, &first));
        let second = self.part(epoch, 2).expect("the victim's part 2");
        let (third, _) = noise.third(&second, hello);
        let before = self.evil.keys().secret;
        self.say(text().renew(epoch, 3, &third));
        noise.split(&before)
    }

    /// A part of a renewal that the victim has sent.
    pub(crate) fn part(&self, epoch: u64, part: u64) -> Option<Vec<u8>> {
        self.find(|frame| match frame {
            Heard::Renew {
                epoch: e,
                part: p,
                message,
            } if (*e, *p) == (epoch, part) => Some(message.clone()),
            _ => None,
        })
    }

    /// Reads what the victim has sealed with new keys already.
    pub(crate) fn switch_heard(&mut self, next: &Split) {
        let key = match self.evil.role {
            Role::Dials => &next.to_initiator,
            Role::Answers => &next.to_responder,
        };
        let records = self.packets.iter().filter(|(_, p)| matches!(p[0], 4..=6));
        let texts = records.filter_map(|(path, packet)| Some((*path, key.open(packet)?)));
        for (path, text) in texts {
            let frames = wire::frames(&text).into_iter();
            self.heard.extend(frames.map(|frame| (path, frame)));
        }
    }

    /// Goes over to new keys.
    pub(crate) fn switch(&mut self, next: Split) {
        self.evil.old_keys = self.evil.keys.replace(next);
        self.evil.epoch += 1;
    }

    // --- what came of it ---

    /// The number of the victim's next record.
    pub(crate) fn victims_next(&self) -> u64 {
        let records = self.packets.iter().filter(|(_, p)| matches!(p[0], 4 | 6));
        let number = |packet: &[u8]| u64::from_be_bytes(packet[1..9].try_into().unwrap());
        records
            .map(|(_, packet)| number(packet) + 1)
            .max()
            .unwrap_or(0)
    }

    /// How many datagrams the victim's owner was given.
    pub(crate) fn datagrams(&self) -> usize {
        let is_one = |event: &&Event| matches!(event, Event::Datagram(_));
        self.events.iter().filter(is_one).count()
    }

    fn closed(&self) -> Option<&'static str> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { refusal, .. } => Some(refusal.word()),
            _ => None,
        })
    }

    /// The word of the CLOSE that the evil peer has heard.
    fn told(&self) -> Option<&'static str> {
        self.find(|frame| match frame {
            Heard::Close { code } => Some(code::word(Code(*code as u32))),
            _ => None,
        })
    }

    fn check(&mut self, ends: Ends) -> Result<(), String> {
        let (closed, told) = (self.closed(), self.told());
        let is = |is: bool, text: &str| match is {
            true => Ok(()),
            false => Err(format!("{text}; closed {closed:?}, told {told:?}")),
        };
        match ends {
            Ends::Closes(word) => {
                is(closed == Some(word), word)?;
                is(told == Some(word), "the evil peer is not told")
            }
            Ends::ClosesSilently(word) => {
                is(closed == Some(word), word)?;
                is(told.is_none(), "the evil peer is told")
            }
            Ends::Goes => {
                is(closed.is_none(), "the session should go on")?;
                is(self.answers(), "the session does not answer")
            }
            Ends::Resets(word) => {
                let reset = self.find(|frame| match frame {
                    Heard::Reset { code, .. } => Some(code::word(Code(*code as u32))),
                    _ => None,
                });
                is(closed.is_none(), "the session should go on")?;
                is(reset == Some(word), "the stream should be reset")?;
                is(self.answers(), "the session does not answer")
            }
        }
    }

    /// Whether the victim acknowledges a good record.
    fn answers(&mut self) -> bool {
        let number = self.evil.next;
        let path = self.victim.active_path().unwrap_or(FIRST);
        self.say_on(path, text().ping());
        self.pass(Time::from_millis(50));
        let is_it = |(_, frame): &(PathId, Heard)| frame.acknowledges(number);
        self.victim.is_established() && self.heard.iter().any(is_it)
    }

    /// What the victim's owner can read of a stream.
    pub(crate) fn read(&mut self, stream: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let now = at(self.at);
        let id = self.stream_id(stream);
        while let Ok(ReadOutcome::Chunk(chunk)) = self.victim.read(now, id) {
            all.extend_from_slice(&chunk);
        }
        self.drain();
        all
    }

    /// The id of a stream that the victim's owner was shown.
    fn stream_id(&self, stream: u64) -> StreamId {
        let mut ids = self.grants.iter().map(Grant::stream);
        ids.find(|id| id.get() == stream).expect("it was accepted")
    }
}

impl Evil {
    pub(crate) fn begin(&mut self, keys: Split) {
        self.hash = keys.hash;
        self.keys = Some(keys);
    }

    pub(crate) fn keys(&self) -> &Split {
        self.keys.as_ref().expect("the handshake is done")
    }

    /// The key that this epoch's records of the evil peer are sealed with.
    pub(crate) fn key(&self, keys: &Split) -> Key {
        match self.role {
            Role::Dials => keys.to_responder.clone(),
            Role::Answers => keys.to_initiator.clone(),
        }
    }

    /// The type byte of this epoch's records.
    pub(crate) fn kind(&self) -> u8 {
        if self.epoch.is_multiple_of(2) { 4 } else { 6 }
    }

    pub(crate) fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        let (key, number) = (self.key(self.keys()), self.next);
        self.next += 1;
        key.seal(&[], self.kind(), number, text)
    }

    pub(crate) fn seal_attach(&mut self, text: &[u8]) -> Vec<u8> {
        let prefix = [&[5][..], &peer::connection_id(&self.hash)].concat();
        let (key, number) = (self.key(self.keys()), self.next);
        self.next += 1;
        key.seal(&prefix, self.kind(), number, text)
    }

    /// A record of the victim's.
    fn open(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let all = [&self.keys, &self.old_keys].into_iter().flatten();
        let mut keys = all.map(|keys| match self.role {
            Role::Dials => &keys.to_initiator,
            Role::Answers => &keys.to_responder,
        });
        keys.find_map(|key| key.open(packet))
    }
}

/// The clear header of message 1.
pub(crate) fn header(version: u8, suite: u8, purpose: u8, name: &[u8]) -> Vec<u8> {
    let mut header = vec![1, version, suite, purpose, name.len() as u8];
    header.extend_from_slice(name);
    header
}

/// An honest session of the victim's with somebody else.
pub(crate) struct Bystander {
    dialler: Session,
    answerer: Session,
    /// Which of the two is the victim's.
    victim_dials: bool,
    stream: StreamId,
    grant: Grant,
    sent: u8,
    timeout: Option<Time>,
}

impl Bystander {
    fn new(mut dialler: Session, mut answerer: Session, victim_dials: bool) -> Self {
        let now = Time::ZERO;
        carry(now, &mut dialler, &mut answerer);
        let stream = dialler.open(at(now), &OpenRequest::port(1883)).unwrap();
        let (events, _) = carry(now, &mut dialler, &mut answerer);
        let grant = events.into_iter().find_map(|event| match event {
            Event::Incoming { grant, .. } => Some(grant),
            _ => None,
        });
        let grant = grant.expect("the bystander may call");
        answerer.accept(at(now), &grant).unwrap();
        let (_, timeout) = carry(now, &mut dialler, &mut answerer);
        Self {
            dialler,
            answerer,
            victim_dials,
            stream,
            grant,
            sent: 0,
            timeout,
        }
    }

    fn on_timeout(&mut self, now: Time) {
        self.dialler.handle_timeout(at(now));
        self.answerer.handle_timeout(at(now));
        self.timeout = carry(now, &mut self.dialler, &mut self.answerer).1;
    }

    /// It is as it was, and bytes go both ways.
    fn check(&mut self, now: Time) -> Result<(), String> {
        self.sent += 1;
        let said = [self.sent; 100];
        let mut heard = Vec::new();
        for dialler_writes in [true, false] {
            let (from, to) = match dialler_writes {
                true => (&mut self.dialler, &mut self.answerer),
                false => (&mut self.answerer, &mut self.dialler),
            };
            let mut data = Bytes::copy_from_slice(&said);
            let written = from.write(at(now), self.stream, &mut data);
            written.map_err(|error| format!("the bystander cannot write: {error}"))?;
            carry(now, from, to);
            while let Ok(ReadOutcome::Chunk(chunk)) = to.read(at(now), self.stream) {
                heard.extend_from_slice(&chunk);
            }
        }
        let victim = if self.victim_dials {
            &self.dialler
        } else {
            &self.answerer
        };
        let stats = victim.stats();
        let dropped = stats.dropped_forged + stats.dropped_replayed + stats.dropped_unexpected;
        let fine = heard == [said, said].concat()
            && dropped == 0
            && self.grant.ended().is_none()
            && victim.is_established();
        match fine {
            true => Ok(()),
            false => Err(format!(
                "the bystander suffers: {stats:?}, {} bytes",
                heard.len()
            )),
        }
    }
}

/// Carries packets between two sessions until there are none. Gives the events
/// of `b` and the next timeout of both.
fn carry(now: Time, a: &mut Session, b: &mut Session) -> (Vec<Event>, Option<Time>) {
    let mut events = Vec::new();
    loop {
        let (to_b, _, timeout_a) = poll(now, a);
        let (to_a, more, timeout_b) = poll(now, b);
        events.extend(more);
        if to_a.is_empty() && to_b.is_empty() {
            let timeouts = [timeout_a, timeout_b];
            return (events, timeouts.into_iter().flatten().min());
        }
        for packet in to_b {
            b.handle_input(at(now), FIRST, packet);
        }
        for packet in to_a {
            a.handle_input(at(now), FIRST, packet);
        }
    }
}

fn poll(now: Time, session: &mut Session) -> (Vec<BytesMut>, Vec<Event>, Option<Time>) {
    let (mut packets, mut events) = (Vec::new(), Vec::new());
    let mut batch = Batch::new(0);
    loop {
        match session.poll_output(at(now), &mut batch) {
            Output::Transmit { .. } => {
                packets.extend(batch.packets_mut().map(|p| BytesMut::from(&*p)));
                batch.clear();
            }
            Output::Event(event) => events.push(event),
            Output::Timeout(timeout) => return (packets, events, timeout),
        }
    }
}
