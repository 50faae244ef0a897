//! Our own credential: put to use, and taken out of use when it is no longer
//! good, with all that runs under it.

use fairway_channel::Code;
use fairway_identity::{Clock, UnixSeconds};
use fairway_session::{Refusal, code};

use crate::config::SavedCredential;
use crate::conn::Conn;
use crate::identity::Identity;
use crate::node::Node;

impl Node {
    /// Takes a credential into use.
    pub(crate) fn set_credential(&self, saved: SavedCredential) {
        let expires = saved.expires.0.cast_signed();
        self.metrics.credential_expiry.set(expires);
        self.identity.send_modify(|identity| {
            *identity = identity.with_credential(saved).into();
        });
        // Live sessions go on under the new one.
        let (local, _) = self.local();
        self.each_conn(|conn| conn.set_local(&local));
    }

    /// The session that was made with credential number `generation` shows each
    /// newer one, and ends with the last.
    pub(crate) fn keep_credentialed(&self, conn: &Conn, generation: u64) {
        conn.follow_identity();
        let (local, newest) = self.local();
        if newest == generation {
            return;
        }
        if self.identity.borrow().is_credentialed() {
            conn.set_local(&local);
        } else {
            let text = "this endpoint's credential is no longer good";
            conn.close(Refusal::new(code::CREDENTIAL_REFUSED, text));
        }
    }

    /// The other end of a link, or the authority, has said that credential
    /// number `generation` is not good (any more). Whoever we talk to will find
    /// the same, and may have no way left to say so: nothing runs under it from
    /// here on, and streams end with that reason. The authority can still be
    /// reached, to ask for another.
    pub(crate) fn credential_refused(&self, generation: u64, refusal: &Refusal) {
        if !is_about_credential(refusal.code) {
            return;
        }
        let was_dropped = self.identity.send_if_modified(|identity| {
            if identity.generation != generation {
                // There is a newer one, which nobody has refused.
                return false;
            }
            let is_over = refusal.code == code::CREDENTIAL_EXPIRED && identity.is_credentialed();
            let without = match is_over {
                true => Identity::expired(identity),
                false => Identity::refused(identity),
            };
            *identity = without.into();
            true
        });
        if !was_dropped {
            return;
        }
        tracing::warn!(
            event = "credential",
            reason = refusal.word(),
            "our credential is no longer good: {refusal}"
        );
        self.each_conn(|conn| conn.end_with_identity(refusal));
    }

    /// Whether our credential was issued before `time`.
    pub(crate) fn is_older_than(&self, time: UnixSeconds) -> bool {
        let issued_at = self.identity.borrow().issued_at;
        issued_at.is_some_and(|issued| issued < time)
    }

    /// Drops a credential whose time is over.
    pub(crate) fn drop_if_expired(&self) {
        let (generation, expires) = {
            let identity = self.identity.borrow();
            let expires = identity.credential.as_ref().map(|c| c.expires);
            (identity.generation, expires)
        };
        if let (Some(expires), Clock::Trusted(now)) = (expires, self.clock.clock())
            && expires <= now
        {
            let text = "its time is over, and there is no new one";
            let expired = Refusal::new(code::CREDENTIAL_EXPIRED, text);
            self.credential_refused(generation, &expired);
        }
    }
}

fn is_about_credential(code: Code) -> bool {
    [
        code::CREDENTIAL_EXPIRED,
        code::CREDENTIAL_REFUSED,
        code::REVOKED,
    ]
    .contains(&code)
}
