//! Renewal: new keys, and both sides show anew who they are (SPEC.md section 7).

use std::sync::Arc;

use fairway_channel::{RenewError, Time};

use super::{Admitted, Phase, Role, Session};
use crate::admit::{self, Known};
use crate::code::{self, Refusal};
use crate::event::Event;
use crate::hello::Hello;
use crate::local::{Local, Now};
use crate::peer::Standing;

/// A changed trust set makes sessions renew within this time, not all at once.
const RENEWAL_SPREAD: Time = Time::from_secs(60);

impl Session {
    /// Renews the keys now, with all that belongs to it. A session does so by
    /// itself: at least hourly, after much use, and with a new
    /// [`set_local`](Self::set_local). Nothing waits meanwhile.
    pub fn renew(&mut self, now: Now) {
        if !self.is_established() {
            return;
        }
        match self.role {
            Role::Dialler(_) => {
                // One that is under way is followed by another, and shows what
                // belongs to the key that it was begun with.
                if !self.channel.is_renewing() {
                    self.begun_with.clone_from(&self.local.own.credential);
                }
                self.begin_renewal(now);
            }
            Role::Answerer(_) => self.channel.request_renewal(now.mono),
        }
    }

    fn begin_renewal(&mut self, now: Now) {
        match self.channel.renew(now.mono, &self.local.own.secret) {
            Ok(()) => {}
            Err(error @ RenewError::Crypto) => {
                let refusal = Refusal::new(code::OVERLOADED, error.to_string());
                self.end(now, refusal);
            }
            Err(RenewError::WrongSide | RenewError::NotReady | RenewError::NotAsked) => {}
        }
    }

    /// This side has a new credential (and key): the peer is shown it in a
    /// renewal. It must be of the same subject and UID, or the peer ends the
    /// session; one of a side that had none before is not shown, since a
    /// session never changes who its ends are. The instance stays the old one.
    pub fn set_local(&mut self, now: Now, mut local: Local) {
        if !self.is_established() {
            // The handshake goes on with what it was begun with.
            if !self.is_closed() {
                self.next_local = Some(Box::new(local));
            }
            return;
        }
        if local.is_anonymous() != self.local.is_anonymous() {
            return;
        }
        let trust = self.local.trust.take();
        local.set_instance(self.local.own.instance);
        self.local = local;
        // Whichever is newer.
        if let Some(newer) = self.local.trust.take() {
            self.local.trust = trust;
            self.set_trust(now, newer);
        } else {
            self.local.trust = trust;
        }
        self.renew(now);
    }

    /// A newer trust set holds: peers may have newer credentials to show.
    pub(super) fn renew_soon(&mut self, now: Now) {
        if self.is_established() {
            self.channel.renew_within(now.mono, RENEWAL_SPREAD);
        }
    }

    /// The session has just been established.
    pub(super) fn apply_next_local(&mut self, now: Now) {
        if let Some(local) = self.next_local.take() {
            self.set_local(now, *local);
        }
    }

    /// The dialler has begun: this side shows its full credential, and the
    /// newest trust set.
    pub(super) fn answer_renewal(&mut self, now: Now) {
        let hello = Hello {
            credential: self.full_credential(),
            trust_set: self
                .local
                .trust
                .as_ref()
                .map(|trust| trust.bytes().to_vec()),
            instance: self.local.own.instance,
            ticket: None,
        };
        let secret = &self.local.own.secret;
        let answered = self
            .channel
            .answer_renewal(now.mono, secret, &hello.to_bytes());
        if let Err(error @ RenewError::Crypto) = answered {
            let refusal = Refusal::new(code::OVERLOADED, error.to_string());
            self.end(now, refusal);
        }
    }

    /// What the peer shows in a renewal: from here on it is judged by that.
    pub(super) fn on_renewal_hello(
        &mut self,
        now: Now,
        key: [u8; 32],
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        let hello = admit::read_hello(bytes)?;
        self.learn_trust(&hello)?;
        let rules = self.live.rules();
        let known = Known {
            trust: self.local.trust.as_ref(),
            rules: &rules,
            clock: now.clock,
        };
        let Phase::Established(admitted) = &self.phase else {
            return Err(Refusal::new(code::MALFORMED, "a renewal out of turn"));
        };
        let before = &admitted.info;
        if hello.instance != *before.instance() {
            let text = "the peer's process is another in the renewal";
            return Err(Refusal::new(code::MALFORMED, text));
        }
        let (standing, answer) = match &self.role {
            Role::Dialler(_) => {
                let Standing::Verified(peer) = before.standing() else {
                    return Err(Refusal::new(code::MALFORMED, "a renewal out of turn"));
                };
                let peer = admit::check_full(&hello, &key, before.dialled(), peer, &known)?;
                let credential = self.begun_with.take();
                let credential = credential.map(|credential| credential.full.clone());
                (Standing::Verified(peer), self.own_hello(&hello, credential))
            }
            Role::Answerer(_) => {
                let standing = admit::check_caller(&hello, &key, &known)?;
                admit::check_same(before.standing(), &standing)?;
                (standing, Vec::new())
            }
        };
        let info = before.renewed(standing, key);
        self.phase = Phase::Established(Admitted::new(info.clone(), now.clock));
        self.channel.proceed(now.mono, answer);
        self.events.push_back(Event::Renewed(info.clone()));
        // Attributes may be others than before.
        if let Some(caller) = info.caller() {
            let over = self.live.set_caller(&caller);
            self.end_streams(now, over);
        }
        Ok(())
    }

    pub(super) fn full_credential(&self) -> Option<Vec<u8>> {
        let credential = self.local.own.credential.as_ref().map(Arc::as_ref);
        credential.map(|credential| credential.full.clone())
    }
}
