//! What an idle session costs, its channel included. A test of its own, so that
//! nothing else runs in the process; `FAIRWAY_IDLE=100000` measures as many.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use fairway_identity::{
    AccountName, Address, Clock, CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label,
    RootHash, Serial, Signer, SpiffeId, TrustDomain, TrustSet, Uid, UnixSeconds, VerifiedTrustSet,
    issue,
};
use fairway_session::{
    Batch, Config, Local, Now, Output, PathId, Rules, Session, StaticSecret, Time,
};

/// Bytes of one idle end: 1 KiB in the channel, and as much above it, of which
/// what the peer's credential says is the largest part.
const MOST: usize = 2 * 1024;

const START: UnixSeconds = UnixSeconds(1_800_000_000);

#[test]
fn an_idle_session_stays_small() {
    let ends: usize = match std::env::var("FAIRWAY_IDLE") {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => 4_000,
    };
    let world = World::new();
    for _ in 0..100 {
        world.connected();
    }
    let mut sessions = Vec::with_capacity(ends);
    let before = resident();
    while sessions.len() < ends {
        sessions.extend(world.connected());
    }
    let each = (resident() - before) / ends;
    println!("{each} bytes an idle session, {ends} of them");
    assert!(sessions.iter().all(Session::is_established));
    assert!(each <= MOST, "{each} bytes");
    assert!(each > MOST / 2, "{each} bytes: what is measured here?");
}

/// A device and a workload.
struct World {
    device: Local,
    workload: Local,
    names: Arc<[Address]>,
    rules: Rules,
    config: Config,
}

impl World {
    fn new() -> Self {
        let domain = TrustDomain::new("fairway.local").unwrap();
        let label = |text: &str| Label::new(text).unwrap();
        let account = |text: &str| AccountName::new(text).unwrap();
        let workload =
            |name: &str| SpiffeId::workload(domain.clone(), label("factory"), account(name));
        let device = SpiffeId::device(domain.clone(), label("factory"), label("pump-7"));
        let root = Ed25519Key::from_seed([1; 32]);
        let issuer = Ed25519Key::from_seed([2; 32]);
        let set = TrustSet {
            version: 1,
            trust_domain: domain.clone(),
            root: root.verifying_key(),
            issuers: vec![Issuer {
                key: issuer.verifying_key(),
                not_before: START.minus(1_000),
                expires: START.plus(1_000_000),
            }],
            authority: workload("fairway-authority"),
            relay: workload("fairway-relay"),
            revocation_floor: UnixSeconds(0),
        };
        let pin = RootHash::of(&root.verifying_key());
        let trust = VerifiedTrustSet::verify(&set.sign(&root).unwrap(), &pin, 0).unwrap();
        let local = |id, key: u8, services: &[&str]| {
            let secret = StaticSecret::from_bytes([key; 32]);
            let claims = CredentialClaims {
                issuer: IssuerId::of(&issuer.verifying_key()),
                uid: Uid::new("0f3c4a52-7d6c-4a8e-9a53-3f6f2c1f9a77").unwrap(),
                id,
                handshake_key: secret.public(),
                not_before: START.minus(60),
                expires: START.plus(3600),
                issued_at: START.minus(60),
                serial: Serial([key; 16]),
                attributes: BTreeMap::new(),
                services: services.iter().map(|name| label(name)).collect(),
                pod: None,
            };
            let forms = [Form::Lean, Form::Full].map(|form| issue(&claims, form, &issuer).unwrap());
            let [lean, full] = forms;
            Local::anonymous(secret, pin, [key; 16])
                .with_credential(lean, full)
                .with_trust(trust.clone())
        };
        Self {
            device: local(device, 7, &[]),
            workload: local(workload("mosquitto"), 8, &["broker"]),
            names: [name()].into(),
            rules: Rules::default(),
            config: Config::new(),
        }
    }

    /// Two ends that are established, quiet, and have given back what they do
    /// not need.
    fn connected(&self) -> [Session; 2] {
        let config = || self.config.clone();
        let rules = || self.rules.clone();
        let mut now = at(Time::from_secs(1));
        let device = self.device.clone();
        let dialler = Session::dial(config(), device, rules(), name(), [3; 32], now).unwrap();
        let (workload, names) = (self.workload.clone(), Arc::clone(&self.names));
        let answerer = Session::answer(config(), workload, rules(), names, [4; 32], now).unwrap();
        let mut ends = [dialler, answerer];
        while now.mono < Time::from_secs(2) {
            let mut any = false;
            for from in 0..2 {
                for packet in drain(&mut ends[from], now) {
                    ends[1 - from].handle_input(now, PathId::FIRST, packet);
                    any = true;
                }
            }
            if !any {
                // Acknowledgements that are owed.
                now = at(now.mono + Time::from_millis(30));
                ends.iter_mut().for_each(|end| end.handle_timeout(now));
            }
        }
        ends.iter_mut().for_each(Session::release_memory);
        ends
    }
}

fn name() -> Address {
    "broker.factory.svc.fairway.internal".parse().unwrap()
}

fn at(mono: Time) -> Now {
    Now {
        mono,
        clock: Clock::Trusted(START),
    }
}

fn drain(end: &mut Session, now: Now) -> Vec<BytesMut> {
    let mut batch = Batch::new(0);
    while !matches!(end.poll_output(now, &mut batch), Output::Timeout(_)) {}
    let packets = batch.packets_mut();
    packets.map(|packet| BytesMut::from(&*packet)).collect()
}

/// Resident memory of this process, in bytes (Linux).
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0_usize)
}
