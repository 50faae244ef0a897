//! The two sides get to know each other: hellos are judged and answered.

use std::sync::Arc;

use fairway_identity::{Address, VerifiedTrustSet};

use super::{Admitted, Phase, Role, Session, Shown, purpose_of};
use crate::admit::{self, Known};
use crate::code::{self, Refusal};
use crate::event::Event;
use crate::hello::{Hello, WireTicket};
use crate::local::Now;
use crate::peer::{Dialled, PeerInfo, Standing};

impl Session {
    /// Judges a peer by what it has shown; one for which nothing but the time
    /// is lacking is kept waiting for it.
    pub(super) fn meet(&mut self, now: Now, shown: Shown) {
        let Err(refusal) = self.on_hello(now, &shown) else {
            return;
        };
        if refusal.code == code::CLOCK_UNKNOWN && now.mono < shown.until {
            self.phase = Phase::AwaitingTime(Box::new(shown));
        } else {
            self.end(now, refusal);
        }
    }

    fn on_hello(&mut self, now: Now, shown: &Shown) -> Result<(), Refusal> {
        let (key, last) = (shown.key, shown.last);
        let hello = admit::read_hello(&shown.hello)?;
        let dialled = match &self.role {
            Role::Dialler(address) => address.clone(),
            Role::Answerer(names) => self.check_dialled(names)?,
        };
        self.learn_trust(&hello)?;
        let rules = self.live.rules();
        let known = Known {
            trust: self.local.trust.as_ref(),
            rules: &rules,
            clock: now.clock,
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        let (phase, answer) = match (&self.role, phase, last) {
            (Role::Dialler(_), Phase::Unknown, false) => {
                let peer = admit::check_lean(&hello, &key, dialled.address(), &known)?;
                (
                    Phase::LeanChecked(peer),
                    self.own_hello(&hello, self.full_credential()),
                )
            }
            (Role::Dialler(_), Phase::LeanChecked(lean), true) => {
                let peer = admit::check_full(&hello, &key, dialled.address(), &lean, &known)?;
                let standing = Standing::Verified(peer);
                let info = PeerInfo::new(standing, key, self.hash()?, hello.instance, dialled);
                (Phase::Admitted(Admitted::new(info, now.clock)), Vec::new())
            }
            (Role::Answerer(_), Phase::Unknown, true) => {
                let standing = admit::check_caller(&hello, &key, &known)?;
                let answer = self.own_hello(&hello, self.full_credential());
                let info = PeerInfo::new(standing, key, self.hash()?, hello.instance, dialled);
                (Phase::Admitted(Admitted::new(info, now.clock)), answer)
            }
            _ => return Err(Refusal::new(code::MALFORMED, "a hello out of turn")),
        };
        self.phase = phase;
        self.channel.proceed(now.mono, answer);
        Ok(())
    }

    fn check_dialled(&self, names: &Arc<[Address]>) -> Result<Dialled, Refusal> {
        let dialled = admit::check_dialled(self.channel.dialled(), names)?;
        if self.channel.purpose() != Some(purpose_of(dialled.address())) {
            return Err(Refusal::new(
                code::MALFORMED,
                "the handshake's purpose is not the name's",
            ));
        }
        Ok(dialled)
    }

    /// The hash of the handshake, which is complete when the peer's last hello comes.
    fn hash(&self) -> Result<[u8; 32], Refusal> {
        let hash = self.channel.handshake_hash();
        hash.ok_or_else(|| Refusal::new(code::MALFORMED, "no handshake hash"))
    }

    /// This credential of this side's, and the trust set if `theirs` is older.
    pub(super) fn own_hello(&self, theirs: &Hello, credential: Option<Vec<u8>>) -> Vec<u8> {
        let trust = self.local.trust.as_ref().map(VerifiedTrustSet::bytes);
        let known = trust == theirs.trust_set.as_deref();
        // In its HELLO frame the answering side repeats nothing: the dialler
        // has seen the trust set in message 2.
        let dials = matches!(self.role, Role::Dialler(_));
        let send_trust = !known && dials;
        let ticket = self.local.own.ticket.as_deref();
        Hello {
            ticket: ticket
                .filter(|_| dials && credential.is_none())
                .map(WireTicket::from),
            credential,
            trust_set: trust.filter(|_| send_trust).map(<[u8]>::to_vec),
            instance: self.local.own.instance,
        }
        .to_bytes()
    }

    pub(super) fn learn_trust(&mut self, hello: &Hello) -> Result<(), Refusal> {
        let shown = hello.trust_set.as_deref();
        let newer = admit::newer_trust(shown, self.local.trust.as_ref(), &self.local.own.pin)?;
        if let Some(trust) = newer {
            self.local.trust = Some(trust.clone());
            self.events.push_back(Event::TrustSetLearned(trust));
        }
        Ok(())
    }

    pub(super) fn on_ready(&mut self, now: Now) {
        let admitted = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Admitted(admitted) => admitted,
            Phase::Unknown
            | Phase::AwaitingTime(_)
            | Phase::LeanChecked(_)
            | Phase::Established(..)
            | Phase::Ended => {
                let text = "the channel is ready, but nobody was admitted";
                return self.end(now, Refusal::new(code::MALFORMED, text));
            }
        };
        self.events
            .push_back(Event::Established(admitted.info.clone()));
        self.phase = Phase::Established(admitted);
        self.apply_next_local(now);
    }
}
