//! A node as a process: who it is, its rules, its clock.

use super::*;

impl Node {
    pub(in crate::world) fn new(
        number: usize,
        is_device: bool,
        authority: &mut Authority,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let (name, id, uid) = match is_device {
            true => (
                format!("pump-{number}.factory.device.fairway.internal"),
                authority.device("factory", &format!("pump-{number}")),
                format!("device-{number}"),
            ),
            false => (
                "broker.factory.svc.fairway.internal".to_owned(),
                authority.workload("factory", "mosquitto"),
                format!("pod-{number}"),
            ),
        };
        let secret = StaticSecret::from_bytes(random.random());
        let mut node = Self {
            number,
            is_device,
            name: name.parse().expect("an address"),
            id,
            uid: Uid::new(&uid).expect("letters and digits"),
            key: secret.public(),
            local: Local::anonymous(secret, authority.pin(), [0; 16]),
            full: Vec::new(),
            instance: random.random(),
            rules: Rules::default(),
            clock: 0,
            links: Vec::new(),
            next_circuit: BTreeMap::new(),
            circuits: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            by_id: BTreeMap::new(),
            redial_at: Time::ZERO,
            apps_sleep_until: Time::ZERO,
        };
        node.rules = node.rules_that_allow(true);
        node.be_issued(authority, Time::ZERO, random);
        node
    }

    /// A fresh key and credential.
    pub(in crate::world) fn be_issued(
        &mut self,
        authority: &mut Authority,
        now: Time,
        random: &mut ChaCha8Rng,
    ) {
        let secret = StaticSecret::from_bytes(random.random());
        self.key = secret.public();
        let mut claims = authority.claims(self.id.clone(), self.key, START.plus(now.as_secs()));
        claims.uid = self.uid.clone();
        match self.is_device {
            true => drop(
                claims
                    .attributes
                    .insert("model".to_owned(), "pump".to_owned()),
            ),
            false => claims.services = vec![label("broker")],
        }
        self.local = authority.local(secret, &claims, self.instance);
        let [_, full] = authority.issue(&claims);
        self.full = full;
    }

    pub(in crate::world) fn uid(&self) -> &Uid {
        &self.uid
    }

    /// Its sessions by handshake hash, each with the streams that others have
    /// opened in it.
    pub(in crate::world) fn live_streams(&self) -> impl Iterator<Item = ([u8; 32], usize)> {
        let sessions = self.sessions.values();
        sessions.map(|held| (held.hash, held.session.live_streams()))
    }

    /// What it shows to a relay: its credential, and the key.
    pub(in crate::world) fn shown(&self) -> (&[u8], [u8; 32]) {
        (&self.full, self.key)
    }

    pub(in crate::world) fn rules_that_allow(&self, allow: bool) -> Rules {
        let mut doors = Doors::new();
        let factory = || label("factory");
        let (from, door) = if self.is_device {
            let name = label(&format!("pump-{}", self.number));
            let added = doors.add_device_service(factory(), name, "config", PORT);
            added.expect("one door");
            (
                CallerRule::Workloads {
                    namespaces: vec!["factory".to_owned()],
                    service_accounts: vec!["mosquitto".to_owned()],
                },
                Door::Service {
                    service: "config".to_owned(),
                    protocol: Protocol::Tcp,
                },
            )
        } else {
            let added = doors.add_service(factory(), label("broker"), PORT, 11883);
            added.expect("one door");
            (
                CallerRule::Devices {
                    namespaces: vec!["factory".to_owned()],
                    names: vec![],
                    attributes: AttributeSelector {
                        match_attributes: BTreeMap::from([("model".to_owned(), "pump".to_owned())]),
                        expressions: vec![],
                    },
                },
                Door::Port {
                    port: 11883,
                    protocol: Protocol::Tcp,
                },
            )
        };
        let policy = Policy {
            namespace: "factory".to_owned(),
            name: "sim".to_owned(),
            action: Action::Allow,
            mode: Mode::Enforce,
            from: vec![from],
            to: vec![door],
        };
        Rules {
            policy: Arc::new(PolicySet {
                policies: if allow { vec![policy] } else { vec![] },
            }),
            doors: Arc::new(doors),
            revoked: Arc::clone(&self.rules.revoked),
            ..Rules::default()
        }
    }

    pub(super) fn at(&self, now: Time) -> Now {
        let seconds = (START.0 + now.as_secs()).saturating_add_signed(self.clock);
        Now {
            mono: now,
            clock: Clock::Trusted(UnixSeconds(seconds)),
        }
    }

    pub(in crate::world) fn describe(&self, now: Time) -> String {
        let sessions = self.sessions.iter().map(|(key, held)| {
            format!(
                "  session {key} with {:?}, {:?}, active {:?}, candidate {:?}, paths {:?}, {:?}",
                held.peer,
                held.session,
                held.session.active_path(),
                held.session.candidate_path(),
                held.paths,
                held.session.stats(),
            )
        });
        let sessions: Vec<String> = sessions.collect();
        let (number, links) = (self.number, &self.links);
        format!(
            "node {number} at {now:?}, links {links:?}\n{}",
            sessions.join("\n")
        )
    }
}
