//! The peer is judged again: when its time is over, and when trust set or clock
//! change.

use fairway_channel::Time;
use fairway_identity::Clock;

use super::{Admitted, Phase, Session};
use crate::admit::{self, Known};
use crate::local::Now;
use crate::peer::{PeerInfo, Standing};

impl Session {
    /// Ends the session when the peer's credential has run out, and verifies
    /// it (for the first time, or once more) when the time has become known.
    pub(super) fn judge_by_clock(&mut self, now: Now) {
        if let Phase::AwaitingTime(shown) = &self.phase
            && (matches!(now.clock, Clock::Trusted(_)) || now.mono >= shown.until)
            && let Phase::AwaitingTime(shown) = std::mem::replace(&mut self.phase, Phase::Unknown)
        {
            return self.meet(now, *shown);
        }
        let Some(admitted) = self.admitted() else {
            return;
        };
        if let Standing::Verified(peer) = admitted.info.standing()
            && now.clock.at_least() >= peer.expires()
        {
            let refusal = admit::expired(peer.id());
            return self.end(now, refusal);
        }
        if let (true, Clock::Trusted(_)) = (admitted.by_floor, now.clock) {
            self.judge_again(now);
        }
    }

    pub(super) fn judge_again(&mut self, now: Now) {
        let rules = self.live.rules();
        let known = Known {
            trust: self.local.trust.as_ref(),
            rules: &rules,
            clock: now.clock,
        };
        let (Phase::Admitted(admitted) | Phase::Established(admitted)) = &mut self.phase else {
            // A lean credential is followed by the full one, which is verified
            // under the trust set of then.
            return;
        };
        match admit::check_again(admitted.info.standing(), &known) {
            // Its end may have moved with its issuer's.
            Ok(standing) => {
                admitted.info = admitted.info.with_standing(standing);
                admitted.by_floor = matches!(now.clock, Clock::Floor(_));
            }
            Err(refusal) => self.end(now, refusal),
        }
    }

    fn admitted(&self) -> Option<&Admitted> {
        match &self.phase {
            Phase::Admitted(admitted) | Phase::Established(admitted) => Some(admitted),
            Phase::Unknown | Phase::AwaitingTime(_) | Phase::LeanChecked(_) | Phase::Ended => None,
        }
    }

    /// The monotonic time at which the peer's credential runs out, or its
    /// patience; up to a second late, since the wall clock comes in whole
    /// seconds. Any call in between notices, too.
    pub(super) fn expiry(&self, now: Now) -> Option<Time> {
        if let Phase::AwaitingTime(shown) = &self.phase {
            return Some(shown.until);
        }
        match self.admitted()?.info.standing() {
            Standing::Verified(peer) => {
                let left = peer.expires().since(now.clock.at_least());
                now.mono.checked_add(Time::from_secs(left))
            }
            Standing::Expired(_) | Standing::TicketHolder(_) | Standing::Anonymous => None,
        }
    }
}

impl Admitted {
    pub(super) fn new(info: PeerInfo, clock: Clock) -> Self {
        Self {
            info,
            by_floor: matches!(clock, Clock::Floor(_)),
        }
    }
}
