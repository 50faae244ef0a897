//! Random courses of events against a model that only says who may do what.
//!
//! The invariant in one sentence: at no moment is there a grant that is good,
//! or a byte or datagram that can be read, which the rules and the clock of that moment do
//! not allow; and nothing is ended that was allowed all along.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::world::{LIFETIME, broker_rules, revoking};
use super::*;
use crate::{Grant, HttpAnswer, OpenRequest, ReadOutcome, Rules, StreamId};

/// What can happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Which of the four policies are in force.
    Policies {
        mqtt: bool,
        mqtt_deny: bool,
        web: bool,
        web_http: bool,
    },
    /// Open a stream to MQTT or to the web port.
    Open { web: bool },
    /// Accept all that waits.
    Accept,
    /// The caller writes on all of its streams, and sends a datagram on each.
    Write,
    /// The callee ends its half of the `n`th stream.
    Finish(usize),
    /// Somebody drops the `n`th grant, but not the stream.
    Forget(usize),
    /// Seconds go by.
    Wait(u64),
    /// The caller is revoked.
    Revoke,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<(bool, bool, bool, bool)>().prop_map(|(mqtt, deny, web, web_http)| {
            Step::Policies { mqtt, mqtt_deny: deny && !web, web, web_http }
        }),
        6 => any::<bool>().prop_map(|web| Step::Open { web }),
        6 => Just(Step::Accept),
        5 => Just(Step::Write),
        1 => (0usize..4).prop_map(Step::Finish),
        1 => (0usize..4).prop_map(Step::Forget),
        1 => (0u64..LIFETIME / 4).prop_map(Step::Wait),
        1 => Just(Step::Revoke),
    ]
}

/// What should be.
struct Model {
    mqtt: bool,
    mqtt_deny: bool,
    web: bool,
    web_http: bool,
    seconds: u64,
    revoked: bool,
}

impl Model {
    fn alive(&self) -> bool {
        !self.revoked && self.seconds < LIFETIME
    }

    /// Whether a stream that was opened as `kind` may be there now.
    fn allows(&self, kind: Kind) -> bool {
        self.alive()
            && match kind {
                Kind::Mqtt => self.mqtt && !self.mqtt_deny,
                // TCP as long as no policy looks at HTTP there.
                Kind::WebTcp => self.web && !self.web_http,
                Kind::WebHttp => self.web || self.web_http,
            }
    }

    fn rules(&self) -> Rules {
        let policies = [
            (self.mqtt, allow(11883)),
            (self.mqtt_deny, deny(11883)),
            (self.web, allow(8080)),
            (self.web_http, http_allow(8080, "GET", "/ok")),
        ];
        let policies = policies
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, policy)| policy);
        let revoked = revoking(if self.revoked {
            "uid-of-pump-7"
        } else {
            "nobody"
        });
        Rules {
            revoked,
            ..broker_rules(policies.collect())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mqtt,
    WebTcp,
    WebHttp,
}

/// One stream as the test knows it.
struct Known {
    kind: Kind,
    grant: Option<Grant>,
    accepted: bool,
    /// Whether the rules have allowed it at each moment since it was opened.
    all_along: bool,
    sent: u64,
    read: u64,
    datagrams_sent: u64,
    datagrams_came: u64,
}

struct Run {
    pair: Pair,
    model: Model,
    streams: BTreeMap<StreamId, Known>,
}

impl Run {
    fn new() -> Self {
        let model = Model {
            mqtt: false,
            mqtt_deny: false,
            web: false,
            web_http: false,
            seconds: 0,
            revoked: false,
        };
        let pair = Pair::established(&World::new(), vec![]);
        Self {
            pair,
            model,
            streams: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Policies {
                mqtt,
                mqtt_deny,
                web,
                web_http,
            } => {
                self.model = Model {
                    mqtt,
                    mqtt_deny,
                    web,
                    web_http,
                    ..self.model
                };
                self.set_rules();
            }
            Step::Revoke => {
                self.model.revoked = true;
                self.set_rules();
            }
            Step::Wait(seconds) => {
                self.model.seconds += seconds;
                self.pair.advance_to(self.model.seconds);
                // The clock counts whole seconds: see `Session::expiry`.
                self.pair.drive();
            }
            Step::Open { web } => self.open(web),
            Step::Accept => self.accept(),
            Step::Write => self.write(),
            Step::Finish(n) => {
                if let Some((stream, _)) = self.streams.iter().nth(n) {
                    let now = self.pair.answerer_now();
                    let _ = self.pair.answerer.session.finish(now, *stream);
                }
            }
            Step::Forget(n) => {
                if let Some((_, known)) = self.streams.iter_mut().filter(|(_, k)| k.accepted).nth(n)
                {
                    known.grant = None;
                }
            }
        }
        self.judge();
        self.pair.drive();
        self.read();
    }

    fn set_rules(&mut self) {
        let now = self.pair.answerer_now();
        self.pair
            .answerer
            .session
            .set_rules(now, self.model.rules());
    }

    fn open(&mut self, web: bool) {
        let now = self.pair.dialler_now();
        let request = OpenRequest::port(if web { 80 } else { 1883 });
        let Ok(stream) = self.pair.dialler.session.open(now, &request) else {
            return assert!(!self.model.alive(), "a live session opens streams");
        };
        self.pair.drive();
        let wanted = |e: &crate::Event| matches!(e, crate::Event::Incoming { stream: s, .. } if *s == stream);
        let Some(crate::Event::Incoming { grant, .. }) = self.pair.answerer.take(wanted) else {
            let kind = if web { Kind::WebHttp } else { Kind::Mqtt };
            return assert!(!self.model.allows(kind), "{kind:?} was refused");
        };
        let kind = match (web, grant.permit()) {
            (false, _) => Kind::Mqtt,
            (true, crate::Permit::Tcp(_)) => Kind::WebTcp,
            (true, _) => Kind::WebHttp,
        };
        let known = Known {
            kind,
            grant: Some(grant),
            accepted: false,
            all_along: true,
            sent: 0,
            read: 0,
            datagrams_sent: 0,
            datagrams_came: 0,
        };
        self.streams.insert(stream, known);
    }

    fn accept(&mut self) {
        let now = self.pair.answerer_now();
        for known in self.streams.values_mut().filter(|known| !known.accepted) {
            let grant = known.grant.as_ref().expect("kept until accepted");
            let accepted = self.pair.answerer.session.accept(now, grant).is_ok();
            assert_eq!(accepted, known.all_along && self.model.allows(known.kind));
            known.accepted = accepted;
        }
    }

    fn write(&mut self) {
        let now = self.pair.dialler_now();
        for (stream, known) in &mut self.streams {
            let mut data = Bytes::from_static(b"0123456789");
            let written = self.pair.dialler.session.write(now, *stream, &mut data);
            known.sent += written.unwrap_or_default() as u64;
            let sent = self.pair.dialler.session.send_datagram(now, *stream, b"x");
            // Those that come before the yes are gone.
            known.datagrams_sent += u64::from(sent.is_ok() && known.accepted);
        }
    }

    /// The invariant on grants.
    fn judge(&mut self) {
        for (stream, known) in &mut self.streams {
            known.all_along &= self.model.allows(known.kind);
            let Some(grant) = &known.grant else { continue };
            assert_eq!(
                grant.ended().is_none(),
                known.all_along,
                "{stream} {:?}",
                known.kind
            );
            let web = known.kind == Kind::WebHttp && known.all_along;
            let yes = |path| {
                matches!(
                    grant.authorize_http("GET", path),
                    HttpAnswer::Allowed { .. }
                )
            };
            if known.kind == Kind::WebHttp {
                assert_eq!(yes("/ok"), web && (self.model.web || self.model.web_http));
                assert_eq!(yes("/other"), web && self.model.web);
            }
        }
    }

    /// The invariant on bytes.
    fn read(&mut self) {
        let now = self.pair.answerer_now();
        for (stream, known) in &mut self.streams {
            while let Ok(ReadOutcome::Chunk(bytes)) = self.pair.answerer.session.read(now, *stream)
            {
                assert!(known.accepted && known.all_along, "{stream} was read");
                known.read += bytes.len() as u64;
            }
            if known.accepted && known.all_along {
                assert_eq!(known.read, known.sent, "{stream} lost something");
            }
        }
        self.take_datagrams();
    }

    /// The invariant on datagrams.
    fn take_datagrams(&mut self) {
        let is_one = |e: &crate::Event| matches!(e, crate::Event::Datagram { .. });
        while let Some(crate::Event::Datagram { stream, .. }) = self.pair.answerer.take(is_one) {
            let known = self.streams.get_mut(&stream).expect("one that was opened");
            assert!(known.accepted && known.all_along, "{stream} had a datagram");
            assert_ne!(known.kind, Kind::WebHttp, "past the policy");
            known.datagrams_came += 1;
        }
        for (stream, known) in &self.streams {
            if known.accepted && known.all_along && known.kind != Kind::WebHttp {
                let (sent, came) = (known.datagrams_sent, known.datagrams_came);
                assert_eq!(sent, came, "{stream} lost a datagram");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_is_ever_open_that_is_not_allowed(steps in vec(step(), 1..40)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
    }
}
