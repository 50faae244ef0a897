//! Two links joined.

use fairway_control::Reason;
use fairway_control::limits::{CIRCUIT_CREDIT_MAX, LINK_PAYLOAD_MAX};
use fairway_control::link::{CircuitId, ReceiveCredit};
use fairway_identity::Address;

use super::budget::Class;
use super::{LinkId, Time};

/// One end of a circuit, as kept by the link at that end.
#[derive(Debug)]
pub(super) struct Half {
    /// The link at the other end, and the circuit's id there.
    pub(super) other: (LinkId, CircuitId),
    /// Polices what comes from the link at this end.
    credit: ReceiveCredit,
    /// DATA payload bytes that came from this end.
    bytes: u64,
    /// The same of DATAGRAMs, which no credit counts.
    datagram_bytes: u64,
    /// What the opener asked for; at its end only.
    pub(super) opened: Option<Box<Opened>>,
}

/// How a circuit came to be.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) class: Class,
    pub(super) destination: Address,
    pub(super) at: Time,
    /// The opener was told that its callee is about to leave.
    pub(super) is_asked_to_move: bool,
}

/// What a circuit did in its life, for the access log.
#[derive(Clone, Debug)]
pub struct CircuitRecord {
    /// The link that opened it.
    pub opener: LinkId,
    /// Who that is.
    pub peer: String,
    /// The name that was dialled.
    pub destination: Address,
    /// The link that it led to.
    pub callee: LinkId,
    /// Payload bytes from the opener.
    pub bytes_in: u64,
    /// Payload bytes to the opener.
    pub bytes_out: u64,
    /// How long it lasted.
    pub duration: Time,
    /// Why it ended.
    pub reason: Reason,
}

/// The receiver granted more than it can have room for.
#[derive(Debug)]
pub(super) struct GrantTooLarge;

impl Half {
    pub(super) fn new(other: (LinkId, CircuitId), opened: Option<Opened>) -> Self {
        Self {
            other,
            credit: ReceiveCredit::new(),
            bytes: 0,
            datagram_bytes: 0,
            opened: opened.map(Box::new),
        }
    }

    /// Counts what came from this end; `false` when it overran its credit.
    #[must_use]
    pub(super) fn receive(&mut self, payload: usize) -> bool {
        let fits = self.credit.receive(payload).is_ok();
        self.bytes += if fits { payload as u64 } else { 0 };
        fits
    }

    /// Counts DATAGRAMs that came from this end.
    pub(super) fn receive_datagrams(&mut self, payload: usize) {
        self.datagram_bytes += payload as u64;
    }

    /// All payload bytes that came from this end.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.datagram_bytes)
    }

    /// The other end granted this one `max_bytes`; the answer is whether to
    /// pass it on. What it has consumed it has received, so a grant beyond that
    /// and one window is a lie that would make this relay's memory the window.
    ///
    /// A raise by less than a frame waits until it is more: who grants by
    /// the byte would make a message of each.
    pub(super) fn grant(&mut self, max_bytes: u64) -> Result<bool, GrantTooLarge> {
        if max_bytes > self.bytes.saturating_add(CIRCUIT_CREDIT_MAX) {
            return Err(GrantTooLarge);
        }
        if max_bytes < self.credit.granted() + LINK_PAYLOAD_MAX as u64 {
            return Ok(false);
        }
        Ok(self.credit.grant(max_bytes))
    }
}

#[cfg(test)]
mod tests {
    use fairway_control::limits::CIRCUIT_CREDIT;

    use super::*;

    #[test]
    fn credit_is_policed_and_grants_cannot_exceed_a_window() {
        let mut half = Half::new((LinkId(1), CircuitId(2)), None);
        let window = CIRCUIT_CREDIT as usize;
        assert!(half.receive(window));
        assert!(!half.receive(1));
        assert_eq!(half.bytes, CIRCUIT_CREDIT);
        assert!(half.grant(CIRCUIT_CREDIT * 2).unwrap());
        assert!(!half.grant(CIRCUIT_CREDIT * 2).unwrap());
        assert!(!half.grant(5).unwrap());
        assert!(half.receive(window));
        assert!(half.grant(half.bytes + CIRCUIT_CREDIT_MAX + 1).is_err());
    }

    /// Else somebody's datagrams would let the other end grant what nobody has sent.
    #[test]
    fn datagrams_are_counted_but_are_no_credit() {
        let mut half = Half::new((LinkId(1), CircuitId(2)), None);
        half.receive_datagrams(CIRCUIT_CREDIT as usize);
        assert_eq!((half.bytes, half.all_bytes()), (0, CIRCUIT_CREDIT));
        assert!(half.grant(CIRCUIT_CREDIT_MAX + 1).is_err());
        assert!(half.receive(CIRCUIT_CREDIT as usize));
    }

    #[test]
    fn credit_by_the_byte_is_passed_on_by_the_frame() {
        let mut half = Half::new((LinkId(1), CircuitId(2)), None);
        let n_frames = 4;
        assert!(half.receive(n_frames * LINK_PAYLOAD_MAX));
        let raises = CIRCUIT_CREDIT..=CIRCUIT_CREDIT + (n_frames * LINK_PAYLOAD_MAX) as u64;
        let passed: Vec<_> = raises.filter(|&max| half.grant(max).unwrap()).collect();
        assert_eq!(passed.len(), n_frames);
    }
}
