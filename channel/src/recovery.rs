//! What was sent and not yet acknowledged: loss, round trip time, probes.
//!
//! After RFC 9002, without its congestion control: the link below has one.
//! A lost packet is never sent again as it was; what it carried goes out in a
//! new one.

use std::collections::VecDeque;

use crate::{StreamId, Time, ack::MAX_ACK_DELAY, frame::AckFrame};

/// A packet is lost when this many later ones arrived (RFC 9002 section 6.1.1).
const PACKET_THRESHOLD: u64 = 3;
/// Guess of the round trip before it has been measured.
const INITIAL_RTT: Time = Time::from_millis(200);
/// No timer is finer than this.
const GRANULARITY: Time = Time::from_millis(5);
/// A probe is not sent before this, so that a peer whose process had to wait
/// for a processor is not sent 16 KiB a second time.
const MIN_PROBE: Time = Time::from_millis(100);
/// Nor is it ever longer than this until the next probe (or than the round trip
/// asks for): a link that comes back is used within that time, and asked again
/// before it is called silent.
const MAX_PROBE: Time = Time::from_secs(1);

/// Something that a packet carried and that must arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    Stream {
        stream: StreamId,
        offset: u64,
        length: u32,
        fin: bool,
    },
    Open(StreamId),
    Accept(StreamId),
    Reset(StreamId),
    Stop(StreamId),
    MaxStreamData(StreamId),
    MaxData,
    MaxStreams,
    Hello,
    Settings,
    /// Not sent again by itself; tells that the peer is alive.
    Ping,
    /// This side's message of a renewal; an older one is not sent again.
    Renew,
    RenewRequest,
    /// Not sent again: an ACK with this highest number.
    Ack(u64),
}

/// What became of something that was carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrived,
    Lost,
}

/// What one packet carried. Nearly always one thing, which needs no allocation.
#[derive(Debug, Default)]
pub(crate) struct Cargo {
    first: Option<Carried>,
    more: Vec<Carried>,
    /// Whether an acknowledgement must come (RFC 9000 section 13.2).
    pub(crate) eliciting: bool,
}

impl Cargo {
    pub(crate) fn push(&mut self, carried: Carried) {
        self.eliciting |= !matches!(carried, Carried::Ack(_));
        match self.first {
            None => self.first = Some(carried),
            Some(_) => self.more.push(carried),
        }
    }

    /// Whether it is an ACK and nothing else.
    pub(crate) fn is_ack_only(&self) -> bool {
        self.first.is_some() && !self.eliciting
    }

    fn unload(self, fate: Fate, each: &mut impl FnMut(Fate, Carried)) {
        for carried in self.first.into_iter().chain(self.more) {
            each(fate, carried);
        }
    }
}

#[derive(Debug)]
struct Sent {
    number: u64,
    at: Time,
    /// `None` once acknowledged or given up.
    cargo: Option<Cargo>,
}

/// The peer acknowledged what was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeverSent;

/// Packets on their way, and the clocks on them. Nothing but a few numbers
/// while there are none and [`Recovery::release_memory`] was called.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    flight: Option<Box<Flight>>,
    /// The last round trip time known, in microseconds.
    rtt: Option<u32>,
    lost: u64,
}

#[derive(Debug, Default)]
struct Flight {
    /// Packets that want an acknowledgement, oldest first.
    sent: VecDeque<Sent>,
    /// How many of `sent` still have their cargo.
    in_flight: usize,
    largest_acked: Option<u64>,
    rtt: Option<Rtt>,
    /// When the oldest packet counts as lost by time.
    loss_at: Option<Time>,
    /// The time that the next probe is counted from.
    probe_from: Time,
    /// Probes since the last acknowledgement.
    probes: u32,
}

#[derive(Debug, Clone, Copy)]
struct Rtt {
    smoothed: Time,
    variation: Time,
    latest: Time,
    least: Time,
}

impl Recovery {
    /// How many packets are being tracked; bounded by the caller.
    pub(crate) fn tracked(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.sent.len())
    }

    /// The number of the oldest packet that is being tracked.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let flight = self.flight.as_ref()?;
        flight.sent.front().map(|sent| sent.number)
    }

    /// Packets found lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// The smoothed round trip time, once measured.
    pub(crate) fn rtt(&self) -> Option<Time> {
        let flight = self.flight.as_ref().and_then(|flight| flight.rtt);
        let known = self.rtt.map(|micros| Time::from_micros(micros.into()));
        flight.map(|rtt| rtt.smoothed).or(known)
    }

    /// The round trip time without what waits in queues on the way, which would
    /// have windows grow that only make the queues longer.
    pub(crate) fn least_rtt(&self) -> Option<Time> {
        let flight = self.flight.as_ref().and_then(|flight| flight.rtt);
        flight.map(|rtt| rtt.least).or(self.rtt())
    }

    /// A measurement from the handshake, before the first acknowledgement.
    pub(crate) fn first_rtt(&mut self, rtt: Time) {
        self.flight().rtt.get_or_insert(Rtt::new(rtt));
    }

    /// A packet that wants an acknowledgement went out. Numbers ascend.
    pub(crate) fn on_sent(&mut self, number: u64, cargo: Cargo, now: Time) {
        self.flight().on_sent(number, cargo, now);
    }

    /// Forgets all but the round trip time, if nothing is on its way.
    pub(crate) fn release_memory(&mut self) {
        if self.tracked() == 0 {
            let rtt = self.rtt();
            self.rtt = rtt.and_then(|rtt| u32::try_from(rtt.as_micros()).ok());
            self.flight = None;
        }
    }

    /// Takes an ACK; hands out what arrived and what is thereby known to be
    /// lost. Whether it acknowledged anything new.
    pub(crate) fn on_ack(
        &mut self,
        ack: &AckFrame<'_>,
        next_number: u64,
        now: Time,
        each: impl FnMut(Fate, Carried),
    ) -> Result<bool, NeverSent> {
        if ack.largest >= next_number {
            return Err(NeverSent);
        }
        // With nothing on its way it is news to nobody.
        let Some(flight) = &mut self.flight else {
            return Ok(false);
        };
        let (is_news, lost) = flight.on_ack(ack, now, each);
        self.lost += lost;
        Ok(is_news)
    }

    /// The path has changed: what was on its way counts as lost, and the round
    /// trip time is measured anew.
    pub(crate) fn on_moved(&mut self, mut each: impl FnMut(Fate, Carried)) {
        self.rtt = None;
        for sent in self
            .flight
            .take()
            .map(|flight| flight.sent)
            .into_iter()
            .flatten()
        {
            if let Some(cargo) = sent.cargo {
                self.lost += 1;
                cargo.unload(Fate::Lost, &mut each);
            }
        }
    }

    /// Whether anything on its way wants an acknowledgement.
    pub(crate) fn awaits_ack(&self) -> bool {
        self.flight
            .as_ref()
            .is_some_and(|flight| flight.in_flight > 0)
    }

    /// Whether nothing is on its way, nor given up without an answer.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.flight
            .as_ref()
            .is_none_or(|flight| flight.in_flight == 0 && flight.probes == 0)
    }

    /// How long an acknowledgement may take with nothing gone wrong; `None`
    /// before the round trip has been measured.
    pub(crate) fn patience(&self) -> Option<Time> {
        let flight = self.flight.as_ref().and_then(|flight| flight.rtt);
        flight
            .or_else(|| self.rtt().map(Rtt::new))
            .map(|rtt| rtt.patience())
    }

    /// When [`Recovery::on_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.flight.as_ref()?.deadline()
    }

    /// Finds what time says is lost or, when nothing has been heard for long,
    /// gives up the oldest packet, whose cargo thereby becomes the probe.
    pub(crate) fn on_timeout(&mut self, now: Time, each: impl FnMut(Fate, Carried)) {
        if let Some(flight) = &mut self.flight {
            self.lost += flight.on_timeout(now, each);
        }
    }

    fn flight(&mut self) -> &mut Flight {
        let known = self.rtt.map(|micros| Time::from_micros(micros.into()));
        self.flight.get_or_insert_with(|| {
            Box::new(Flight {
                rtt: known.map(Rtt::new),
                ..Flight::default()
            })
        })
    }
}

impl Flight {
    fn on_sent(&mut self, number: u64, cargo: Cargo, now: Time) {
        self.probe_from = now;
        self.in_flight += 1;
        self.sent.push_back(Sent {
            number,
            at: now,
            cargo: Some(cargo),
        });
    }

    /// Gives whether anything is newly acknowledged, and how many packets are lost.
    fn on_ack(
        &mut self,
        ack: &AckFrame<'_>,
        now: Time,
        mut each: impl FnMut(Fate, Carried),
    ) -> (bool, u64) {
        let mut newest = None;
        for (low, high) in ack.ranges() {
            let from = self.sent.partition_point(|sent| sent.number < low);
            let range = self.sent.iter_mut().skip(from);
            for sent in range.take_while(|sent| sent.number <= high) {
                if let Some(cargo) = sent.cargo.take() {
                    self.in_flight -= 1;
                    newest = newest.max(Some((sent.number, sent.at)));
                    cargo.unload(Fate::Arrived, &mut each);
                }
            }
        }
        if let Some((number, at)) = newest {
            self.probes = 0;
            if number == ack.largest {
                self.sample(now.saturating_sub(at), ack.delay);
            }
            // Not of a datagram: one may overtake what is not lost at all.
            self.largest_acked = self.largest_acked.max(Some(number));
        }
        (newest.is_some(), self.find_lost(now, &mut each))
    }

    fn deadline(&self) -> Option<Time> {
        if self.in_flight == 0 {
            return None;
        }
        self.loss_at
            .or_else(|| Some(self.probe_from + self.probe_after()))
    }

    /// Gives how many packets are lost.
    fn on_timeout(&mut self, now: Time, mut each: impl FnMut(Fate, Carried)) -> u64 {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return 0;
        }
        if self.loss_at.is_some() {
            return self.find_lost(now, &mut each);
        }
        self.probes = self.probes.saturating_add(1);
        self.probe_from = now;
        let oldest = self.sent.iter_mut().find_map(|sent| sent.cargo.take());
        if let Some(cargo) = oldest {
            self.in_flight -= 1;
            cargo.unload(Fate::Lost, &mut each);
        }
        self.drop_settled();
        0
    }

    fn probe_after(&self) -> Time {
        let base = match self.rtt {
            Some(rtt) => rtt.patience(),
            None => INITIAL_RTT * 2 + MAX_ACK_DELAY,
        };
        let base = base.max(MIN_PROBE);
        base.saturating_mul(1 << self.probes.min(10))
            .min(MAX_PROBE.max(base))
    }

    fn sample(&mut self, latest: Time, delay_micros: u64) {
        // The peer's word about its delay counts up to what it may delay.
        let delay = Time::from_micros(delay_micros).min(MAX_ACK_DELAY);
        let adjusted = latest.saturating_sub(delay);
        match &mut self.rtt {
            None => self.rtt = Some(Rtt::new(adjusted)),
            Some(rtt) => {
                // RFC 9002 section 5.3.
                rtt.latest = latest;
                rtt.variation = (rtt.variation * 3 + rtt.smoothed.abs_diff(adjusted)) / 4;
                rtt.smoothed = (rtt.smoothed * 7 + adjusted) / 8;
                rtt.least = rtt.least.min(adjusted);
            }
        }
    }

    /// RFC 9002 section 6.1: lost is what is three packets, or 9/8 of a round
    /// trip, behind an acknowledged one.
    fn find_lost(&mut self, now: Time, each: &mut impl FnMut(Fate, Carried)) -> u64 {
        self.loss_at = None;
        let Some(largest) = self.largest_acked else {
            return 0;
        };
        let mut lost = 0;
        let rtt = self
            .rtt
            .map_or(INITIAL_RTT, |rtt| rtt.smoothed.max(rtt.latest));
        let patience = (rtt * 9 / 8).max(GRANULARITY);
        for sent in self
            .sent
            .iter_mut()
            .take_while(|sent| sent.number < largest)
        {
            let overdue = sent.at + patience;
            if largest - sent.number < PACKET_THRESHOLD && overdue > now {
                if sent.cargo.is_some() {
                    self.loss_at = Some(self.loss_at.map_or(overdue, |at| at.min(overdue)));
                }
            } else if let Some(cargo) = sent.cargo.take() {
                self.in_flight -= 1;
                lost += 1;
                cargo.unload(Fate::Lost, each);
            }
        }
        self.drop_settled();
        lost
    }

    fn drop_settled(&mut self) {
        while self.sent.front().is_some_and(|sent| sent.cargo.is_none()) {
            self.sent.pop_front();
        }
        if self.sent.is_empty() && self.sent.capacity() > 64 {
            // An idle channel stays small.
            self.sent = VecDeque::new();
        }
    }
}

impl Rtt {
    fn new(first: Time) -> Self {
        Self {
            smoothed: first,
            variation: first / 2,
            latest: first,
            least: first,
        }
    }

    /// The time within which an acknowledgement comes (RFC 9002 section 6.2.1).
    fn patience(&self) -> Time {
        self.smoothed + (self.variation * 4).max(GRANULARITY) + MAX_ACK_DELAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn cargo(length: u32) -> Cargo {
        let mut cargo = Cargo::default();
        cargo.push(carried(length));
        cargo
    }

    fn carried(length: u32) -> Carried {
        Carried::Stream {
            stream: StreamId::from_wire(0),
            offset: 0,
            length,
            fin: false,
        }
    }

    /// (arrived, lost), each by the length that was given to `cargo`.
    fn ack(
        recovery: &mut Recovery,
        range: core::ops::Range<u64>,
        now: Time,
    ) -> (Vec<Carried>, Vec<Carried>) {
        let mut out = Vec::new();
        frame::put_ack(&mut out, core::iter::once(&range), 1, 0);
        let Ok(frame::Frame::Ack(frame)) = frame::take(&mut &out[..]) else {
            panic!("not an ACK")
        };
        let (mut arrived, mut lost) = (Vec::new(), Vec::new());
        recovery
            .on_ack(&frame, 100, now, |fate, carried| match fate {
                Fate::Arrived => arrived.push(carried),
                Fate::Lost => lost.push(carried),
            })
            .unwrap();
        (arrived, lost)
    }

    fn sent(count: u64) -> Recovery {
        let mut recovery = Recovery::default();
        for number in 0..count {
            recovery.on_sent(number, cargo(number as u32), at(number));
        }
        recovery
    }

    #[test]
    fn three_later_packets_make_one_lost() {
        let mut recovery = sent(5);
        let (arrived, lost) = ack(&mut recovery, 3..4, at(4));
        assert_eq!((arrived, lost), (vec![carried(3)], vec![carried(0)]));
        // 1 and 2 are late, 4 is on its way.
        assert_eq!(recovery.flight().in_flight, 3);
        let mut lost = Vec::new();
        recovery.on_timeout(at(200), |_, carried| lost.push(carried));
        assert_eq!(lost, [carried(1), carried(2)]);
        assert_eq!(recovery.lost(), 3);
    }

    #[test]
    fn a_datagram_that_overtook_others_makes_none_lost() {
        let mut recovery = sent(5);
        // Number 9 was not tracked.
        assert_eq!(ack(&mut recovery, 9..10, at(4)), (vec![], vec![]));
        let (arrived, lost) = ack(&mut recovery, 0..1, at(5));
        assert_eq!((arrived, lost), (vec![carried(0)], vec![]));
        assert_eq!(recovery.oldest(), Some(1));
    }

    #[test]
    fn silence_makes_probes_of_the_oldest_ever_more_slowly() {
        let mut recovery = sent(3);
        let mut previous = at(2);
        let mut waits = Vec::new();
        for expected in 0..3 {
            let deadline = recovery.deadline().unwrap();
            waits.push(deadline - previous);
            previous = deadline;
            let mut lost = Vec::new();
            recovery.on_timeout(deadline, |_, carried| lost.push(carried));
            assert_eq!(lost, [carried(expected)]);
        }
        assert!(waits[0] >= MIN_PROBE && waits[1] == waits[0] * 2);
        assert_eq!(waits[2], MAX_PROBE);
        assert_eq!(recovery.deadline(), None);
        assert_eq!(recovery.tracked(), 0);
    }

    #[test]
    fn an_ack_for_the_future_is_a_lie() {
        let mut recovery = sent(2);
        let mut out = Vec::new();
        frame::put_ack(&mut out, core::iter::once(&(0..3)), 1, 0);
        let Ok(frame::Frame::Ack(frame)) = frame::take(&mut &out[..]) else {
            panic!("not an ACK")
        };
        assert_eq!(recovery.on_ack(&frame, 2, at(1), |_, _| ()), Err(NeverSent));
    }

    #[test]
    fn the_round_trip_time_is_smoothed_without_the_peers_delay() {
        let mut recovery = Recovery::default();
        recovery.on_sent(0, cargo(0), at(0));
        ack(&mut recovery, 0..1, at(40));
        assert_eq!(recovery.rtt(), Some(at(40)));
        recovery.on_sent(1, cargo(1), at(100));
        ack(&mut recovery, 0..2, at(220));
        assert_eq!(recovery.rtt(), Some(at(50)));
        assert_eq!(recovery.least_rtt(), Some(at(40)));
    }
}
