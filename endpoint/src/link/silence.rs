//! Whether a link is dead: nothing tells an end of a cut connection but that
//! its questions get no answer.

use std::sync::Arc;

use super::shared::LinkState;
use super::{Driver, LinkKind};
use crate::limits::{LINK_QUIET, LINK_UNANSWERED_MAX};
use crate::transport::LinkIo;

impl<IO: LinkIo> Driver<IO> {
    /// A session gets no answer over this link: is it the link? Its own session
    /// is asked, and if nothing at all has come over the link, its keeper begins
    /// to look for another.
    pub(super) fn doubt(&mut self) {
        self.link_conn().ping();
        if self.is_quiet() {
            self.shared.set_doubtful(true);
        }
    }

    /// A session that gets no answer looks for another circuit.
    pub(super) fn on_silent(&self, id: u32) {
        if let Some((conn, _)) = self.circuits.get(&id).and_then(|c| c.conn.as_ref())
            && conn.wants_path()
        {
            self.node.look_after(conn);
        }
    }

    fn is_quiet(&self) -> bool {
        self.read_at.elapsed() >= LINK_QUIET
    }

    /// The link's own session gets no answer. If other things still come, it
    /// may just have to wait behind much that goes the other way.
    pub(super) fn judge_silence(&mut self) {
        let Some(since) = self.unanswered else {
            return;
        };
        if self.is_quiet() || since.elapsed() >= LINK_UNANSWERED_MAX {
            self.unanswered = None;
            self.shared.set_doubtful(true);
            if self.shared.is_up() {
                self.shared.set_state(LinkState::Silent);
                self.move_own_sessions();
            }
        }
    }

    /// The other end of the link has answered.
    pub(super) fn on_link_alive(&mut self) {
        self.unanswered = None;
        self.shared.set_doubtful(false);
        if self.shared.state() != LinkState::Silent {
            return;
        }
        if self.shared.kind == LinkKind::Relay {
            self.publish_names();
        } else {
            self.shared.set_state(LinkState::Up {
                registered: Arc::default(),
            });
        }
    }
}
