//! From one epoch of keys to the next (SPEC.md section 12): a complete
//! handshake inside the channel, bound to the epoch before.
//!
//! The responder seals with the new keys from the moment it has admitted the
//! initiator anew; the initiator from the first record of the new epoch that
//! it has opened. Until then, and a little longer, both epochs can be read.

use super::{
    Channel,
    phase::{Keys, Phase, count},
};
use crate::{
    ClosedBy, Code, Event, Reason, RenewError, StaticSecret, Time,
    crypto::{self, CryptoError, KemKey},
    frame::{Frame, RenewPart},
    handshake::{EpochSecret, Established, Initiator, InitiatorChecking, Responder},
    limits,
    record::RecordKey,
    recovery::{Cargo, Carried},
    recv::Taken,
    streams::Violation,
    timer::Timer,
};

/// What a channel knows about the age of its keys.
#[derive(Default)]
pub(super) struct Renewing {
    under_way: Option<Box<Renewal>>,
    /// When the present epoch began.
    since: Time,
    /// The owner, or the initiator, was told that new keys are wanted.
    said: bool,
    /// Another renewal is wanted after the one that is under way.
    again: bool,
    /// Spreads the renewals of channels that were made together.
    pub(super) jitter: u8,
}

/// A renewal that is under way.
struct Renewal {
    stage: Stage,
    /// This side's last message, until it has been answered.
    message: Option<(RenewPart, Vec<u8>)>,
}

enum Stage {
    /// Initiator: part 1 is out.
    Asked(Initiator),
    /// Initiator: the owner looks at the hello of part 2.
    Checking(InitiatorChecking),
    /// Initiator: part 3 is out, and a record of the new epoch is awaited.
    Concluded(Next),
    /// Responder: part 1 is here, the owner has yet to say how to answer.
    Begun(Vec<u8>),
    /// Responder: part 2 is out.
    Answered(Responder),
    /// Responder: the owner looks at the hello of part 3.
    Admitting(Established),
}

/// What this side will seal with.
struct Next {
    key: RecordKey,
    secret: EpochSecret,
}

impl Channel {
    /// The number of the keys in use: 0 after the handshake, one more with
    /// each renewal. `None` before the handshake is complete.
    pub fn epoch(&self) -> Option<u64> {
        self.keys.as_ref().map(|keys| keys.epoch)
    }

    /// Whether a renewal is under way.
    pub fn is_renewing(&self) -> bool {
        self.renewing.under_way.is_some()
    }

    /// Renews the keys, and shows the peer who this side is now: `secret` may
    /// be another than before. Nothing waits meanwhile. [`Event::RenewalHello`]
    /// and [`Event::Renewed`] follow. If a renewal is under way already,
    /// [`Event::RenewalDue`] comes after it. Initiator only.
    ///
    /// # Errors
    /// See [`RenewError`].
    pub fn renew(&mut self, now: Time, secret: &StaticSecret) -> Result<(), RenewError> {
        self.advance(now);
        if !self.initiator {
            return Err(RenewError::WrongSide);
        }
        let keys = self.keys_when_ready()?;
        let prologue = keys.secret.renewal_prologue(keys.epoch + 1);
        if self.renewing.under_way.is_some() {
            self.renewing.again = true;
            return Ok(());
        }
        let (state, first) = crypto::random()
            .and_then(|seed| {
                let kem = KemKey::generate()?;
                Initiator::start(secret, &seed, kem, &prologue, Vec::new())
            })
            .map_err(|CryptoError| RenewError::Crypto)?;
        self.say_in_renewal(Stage::Asked(state), Some((RenewPart::First, first)));
        self.renewing.said = true;
        Ok(())
    }

    /// Asks the initiator to renew the keys; it may take its time. Does nothing
    /// at the initiator, and before the channel is ready.
    pub fn request_renewal(&mut self, now: Time) {
        self.advance(now);
        if !self.initiator && self.is_ready() {
            self.owes.renew_request = true;
        }
    }

    /// Wants new keys within this time, at a moment that differs between
    /// channels: [`Event::RenewalDue`] comes at the initiator.
    pub fn renew_within(&mut self, now: Time, within: Time) {
        self.advance(now);
        if self.is_ready() {
            let at = self.now + within * u32::from(self.renewing.jitter) / 255;
            self.timers.set_earlier(Timer::Renew, at);
        }
    }

    /// The responder's answer to [`Event::RenewalAsked`], with what it shows
    /// the peer of itself: `secret` may be another than before. More than
    /// [`limits::MAX_HELLO`] bytes close the channel.
    ///
    /// # Errors
    /// See [`RenewError`].
    pub fn answer_renewal(
        &mut self,
        now: Time,
        secret: &StaticSecret,
        hello: &[u8],
    ) -> Result<(), RenewError> {
        self.advance(now);
        let keys = self.keys_when_ready()?;
        let prologue = keys.secret.renewal_prologue(keys.epoch + 1);
        let Some(Renewal {
            stage: Stage::Begun(first),
            ..
        }) = self.renewing.under_way.as_deref()
        else {
            return Err(RenewError::NotAsked);
        };
        if hello.len() > limits::MAX_HELLO {
            self.fail_renewal(ClosedBy::Owner, "this side's own hello is too long");
            return Ok(());
        }
        let seed = crypto::random().map_err(|CryptoError| RenewError::Crypto)?;
        let encapsulate = crypto::encapsulate;
        let answer = Responder::answer(
            secret,
            &seed,
            &prologue,
            first,
            hello,
            Vec::new(),
            encapsulate,
        );
        match answer {
            Ok((state, second)) => {
                self.say_in_renewal(Stage::Answered(state), Some((RenewPart::Second, second)));
            }
            Err(CryptoError) => self.fail_renewal(ClosedBy::Protocol, "part 1 is damaged"),
        }
        Ok(())
    }

    fn keys_when_ready(&self) -> Result<&Keys, RenewError> {
        match (&self.phase, &self.keys) {
            (Phase::Ready, Some(keys)) => Ok(keys),
            _ => Err(RenewError::NotReady),
        }
    }

    fn say_in_renewal(&mut self, stage: Stage, message: Option<(RenewPart, Vec<u8>)>) {
        self.owes.renew = message.is_some();
        self.renewing.under_way = Some(Box::new(Renewal { stage, message }));
    }

    fn fail_renewal(&mut self, by: ClosedBy, text: &str) {
        let text = format!("the renewal of the keys failed: {text}");
        self.end(by, Reason::new(Code::PROTOCOL_VIOLATION, text));
    }

    /// A message of the peer's.
    pub(super) fn on_renew(
        &mut self,
        epoch: u64,
        part: RenewPart,
        message: &[u8],
    ) -> Result<Taken, Violation> {
        let Some(present) = self.epoch() else {
            return Ok(Taken::NoRoom);
        };
        if self.initiator != (part == RenewPart::Second) {
            return Err(Violation::new("a part of a renewal from the wrong side"));
        }
        // A repetition of what is done.
        if epoch <= present {
            return Ok(Taken::Yes);
        }
        if epoch != present + 1 {
            return Err(Violation::new("a renewal that leaves out an epoch"));
        }
        match (part, self.renewing.under_way.take()) {
            (RenewPart::First, None) if self.is_switching() => {
                return Err(Violation::new("a renewal under the key that was to go"));
            }
            (RenewPart::First, None) => return Ok(self.on_renew_first(message)),
            (RenewPart::Second | RenewPart::Third, None) => {
                return Err(Violation::new("a part of a renewal that nobody began"));
            }
            (_, Some(renewal)) => self.on_renew_part(*renewal, part, message)?,
        }
        Ok(Taken::Yes)
    }

    /// The peer has not sealed with the present epoch's key yet.
    fn is_switching(&self) -> bool {
        self.keys
            .as_ref()
            .is_some_and(|keys| keys.opener.is_expecting())
    }

    /// The initiator begins. Too soon after the last time it has to wait: a
    /// handshake costs more than a frame.
    fn on_renew_first(&mut self, message: &[u8]) -> Taken {
        if self.now < self.renewing.since + limits::MIN_RENEWAL_INTERVAL {
            return Taken::NoRoom;
        }
        self.say_in_renewal(Stage::Begun(message.to_vec()), None);
        self.events.push_back(Event::RenewalAsked);
        Taken::Yes
    }

    fn on_renew_part(
        &mut self,
        renewal: Renewal,
        part: RenewPart,
        message: &[u8],
    ) -> Result<(), Violation> {
        let before = self.keys.as_ref().map(|keys| &keys.secret);
        let damaged = |CryptoError| Violation::new("a part of a renewal is damaged");
        let (stage, static_key, hello) = match (part, renewal.stage) {
            (RenewPart::Second, Stage::Asked(state)) => {
                let (state, hello) = state.read_second(message).map_err(damaged)?;
                let key = state.remote_static();
                (Stage::Checking(state), key, hello)
            }
            (RenewPart::Third, Stage::Answered(state)) => {
                let (hello, next) = state.read_third(message, before).map_err(damaged)?;
                let key = next.remote_static;
                (Stage::Admitting(next), key, hello)
            }
            (RenewPart::Third, Stage::Begun(_)) => {
                return Err(Violation::new("part 3 of a renewal before part 2"));
            }
            // A repetition.
            (_, stage) => {
                let message = renewal.message;
                self.renewing.under_way = Some(Box::new(Renewal { stage, message }));
                return Ok(());
            }
        };
        self.say_in_renewal(stage, None);
        self.events
            .push_back(Event::RenewalHello { static_key, hello });
        Ok(())
    }

    /// The owner admits the peer anew.
    pub(super) fn proceed_renewal(&mut self, hello: &[u8]) {
        let Some(renewal) = self.renewing.under_way.take() else {
            return;
        };
        let Some(keys) = &mut self.keys else {
            return;
        };
        match renewal.stage {
            Stage::Checking(state) => {
                match state.write_third(hello, Vec::new(), Some(&keys.secret)) {
                    Ok((third, next)) => {
                        keys.opener.expect(&next.to_initiator);
                        self.remote_static = Some(next.remote_static);
                        let next = Next {
                            key: next.to_responder,
                            secret: next.secret,
                        };
                        self.timers.set(Timer::Retire, None);
                        self.say_in_renewal(
                            Stage::Concluded(next),
                            Some((RenewPart::Third, third)),
                        );
                    }
                    Err(CryptoError) => {
                        self.fail_renewal(ClosedBy::Protocol, "part 3 could not be made");
                    }
                }
            }
            Stage::Admitting(next) => {
                keys.opener.expect(&next.to_responder);
                self.remote_static = Some(next.remote_static);
                self.timers.set(Timer::Retire, None);
                self.begin_epoch(Next {
                    key: next.to_initiator,
                    secret: next.secret,
                });
                // The initiator waits for a record under the new key.
                self.owes.ping = true;
            }
            stage => {
                let message = renewal.message;
                self.renewing.under_way = Some(Box::new(Renewal { stage, message }));
            }
        }
    }

    /// A record of the epoch that was expected came: the peer seals with it.
    pub(super) fn on_expected_epoch(&mut self) {
        if let Some(keys) = &mut self.keys {
            keys.opener.advance();
        }
        self.set_after(Timer::Retire, Some(limits::OLD_EPOCH_KEPT));
        let concluded = |renewal: &mut Box<Renewal>| matches!(renewal.stage, Stage::Concluded(_));
        if let Some(renewal) = self.renewing.under_way.take_if(concluded)
            && let Stage::Concluded(next) = renewal.stage
        {
            self.begin_epoch(next);
            // Tells the responder so.
            self.acks.urge(self.now);
        }
    }

    /// The records of the epoch before are no longer awaited.
    pub(super) fn retire_epoch(&mut self) {
        if let Some(keys) = &mut self.keys {
            keys.opener.retire();
        }
    }

    /// This side seals with new keys from now on.
    fn begin_epoch(&mut self, next: Next) {
        let Some(keys) = &mut self.keys else {
            return;
        };
        keys.sealer.switch(&next.key);
        keys.secret = next.secret;
        keys.epoch += 1;
        let epoch = keys.epoch;
        count(&mut self.stats.renewals);
        self.events.push_back(Event::Renewed { epoch });
        self.note_epoch();
        if core::mem::take(&mut self.renewing.again) {
            self.want_renewal();
        }
    }

    /// An epoch begins: its age is counted from here.
    pub(super) fn note_epoch(&mut self) {
        self.renewing.since = self.now;
        self.renewing.said = false;
        // Three quarters of the time to all of it. The responder leaves the
        // initiator a while to begin by itself.
        let after = self.config.renew_after;
        let after = match self.initiator {
            true => after - after / 4 * u32::from(self.renewing.jitter) / 255,
            false => after + after / 8,
        };
        self.set_after(Timer::Renew, Some(after));
    }

    /// The responder asks for new keys.
    pub(super) fn on_renew_request(&mut self) -> Result<(), Violation> {
        if !self.initiator {
            return Err(Violation::new("a RENEW_REQUEST from the initiator"));
        }
        self.want_renewal();
        Ok(())
    }

    /// The clock of the keys.
    pub(super) fn on_renew_timer(&mut self) {
        if self.renewing.said && self.now >= self.renewing.since + self.config.renew_after {
            let text = "the keys are too old, and the peer does not renew them";
            self.end(ClosedBy::Protocol, Reason::new(Code::KEY_EXHAUSTED, text));
            return;
        }
        self.want_renewal();
        self.set_after(Timer::Renew, Some(self.config.renew_after));
    }

    /// Looks at how much the key has been used, and at what is left of it.
    pub(super) fn mind_the_key(&mut self) {
        let Some(keys) = &self.keys else {
            return;
        };
        let used = keys.sealer.sealed() >= self.config.renew_records
            || keys.sealer.sealed_bytes() >= self.config.renew_bytes;
        if used && !self.renewing.said && self.is_ready() {
            self.want_renewal();
        }
    }

    /// Says, once an epoch, that new keys are wanted.
    fn want_renewal(&mut self) {
        if !self.initiator {
            self.renewing.said = true;
            self.owes.renew_request = true;
            return;
        }
        let soonest = self.renewing.since + limits::MIN_RENEWAL_INTERVAL;
        if self.renewing.under_way.is_some() {
            self.renewing.again = true;
        } else if self.now < soonest {
            self.timers.set(Timer::Renew, Some(soonest));
        } else if !core::mem::replace(&mut self.renewing.said, true) {
            self.events.push_back(Event::RenewalDue);
        }
    }

    /// Appends what this side has to say in a renewal.
    pub(super) fn put_renewal(&mut self, out: &mut Vec<u8>, cargo: &mut Cargo) {
        if core::mem::take(&mut self.owes.renew_request) {
            Frame::RenewRequest.put(out);
            cargo.push(Carried::RenewRequest);
        }
        let epoch = self.epoch().unwrap_or_default() + 1;
        if core::mem::take(&mut self.owes.renew)
            && let Some(renewal) = &self.renewing.under_way
            && let Some((part, message)) = &renewal.message
        {
            Frame::Renew {
                epoch,
                part: *part,
                message,
            }
            .put(out);
            cargo.push(Carried::Renew);
        }
    }
}
