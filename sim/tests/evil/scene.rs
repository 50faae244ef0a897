//! The endpoint under attack, with somebody honest on another of its sessions.

mod bystander;
mod evil;
mod outcome;
mod setting;
mod talk;

use bytes::{Bytes, BytesMut};
use fairway_identity::{Address, Clock, CredentialClaims};
use fairway_session::{
    Batch, Code, Event, Grant, Local, Now, OpenRequest, Output, PathId, ReadOutcome, Rules,
    Session, StreamId, Time, code, peek_attach,
};
use fairway_sim::authority::{Authority, START};

use crate::peer::{self, Key, Noise, Split, Trick};
use crate::wire::{self, Heard, Text, text};

pub(crate) use bystander::Bystander;
pub(crate) use evil::Evil;
pub(crate) use setting::{broker, header, hello, pump};
use setting::{config, rules};

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
}
