//! Somebody honest on another session of the victim.

use super::*;

/// An honest session of the victim's with somebody else.
pub(crate) struct Bystander {
    dialler: Session,
    answerer: Session,
    /// Which of the two is the victim's.
    victim_dials: bool,
    stream: StreamId,
    grant: Grant,
    sent: u8,
    pub(super) timeout: Option<Time>,
}

impl Bystander {
    pub(super) fn new(mut dialler: Session, mut answerer: Session, victim_dials: bool) -> Self {
        let now = Time::ZERO;
        carry(now, &mut dialler, &mut answerer);
        let stream = dialler.open(at(now), &OpenRequest::port(1883)).unwrap();
        let (events, _) = carry(now, &mut dialler, &mut answerer);
        let grant = events.into_iter().find_map(|event| match event {
            Event::Incoming { grant, .. } => Some(grant),
            _ => None,
        });
        let grant = grant.expect("the bystander may call");
        answerer.accept(at(now), &grant).unwrap();
        let (_, timeout) = carry(now, &mut dialler, &mut answerer);
        Self {
            dialler,
            answerer,
            victim_dials,
            stream,
            grant,
            sent: 0,
            timeout,
        }
    }

    pub(super) fn on_timeout(&mut self, now: Time) {
        self.dialler.handle_timeout(at(now));
        self.answerer.handle_timeout(at(now));
        self.timeout = carry(now, &mut self.dialler, &mut self.answerer).1;
    }

    /// It is as it was, and bytes go both ways.
    pub(super) fn check(&mut self, now: Time) -> Result<(), String> {
        self.sent += 1;
        let said = [self.sent; 100];
        let mut heard = Vec::new();
        for dialler_writes in [true, false] {
            let (from, to) = match dialler_writes {
                true => (&mut self.dialler, &mut self.answerer),
                false => (&mut self.answerer, &mut self.dialler),
            };
            let mut data = Bytes::copy_from_slice(&said);
            let written = from.write(at(now), self.stream, &mut data);
            written.map_err(|error| format!("the bystander cannot write: {error}"))?;
            carry(now, from, to);
            while let Ok(ReadOutcome::Chunk(chunk)) = to.read(at(now), self.stream) {
                heard.extend_from_slice(&chunk);
            }
        }
        let victim = if self.victim_dials {
            &self.dialler
        } else {
            &self.answerer
        };
        let stats = victim.stats();
        let dropped = stats.dropped_forged + stats.dropped_replayed + stats.dropped_unexpected;
        let fine = heard == [said, said].concat()
            && dropped == 0
            && self.grant.ended().is_none()
            && victim.is_established();
        match fine {
            true => Ok(()),
            false => Err(format!(
                "the bystander suffers: {stats:?}, {} bytes",
                heard.len()
            )),
        }
    }
}

/// Carries packets between two sessions until there are none. Gives the events
/// of `b` and the next timeout of both.
fn carry(now: Time, a: &mut Session, b: &mut Session) -> (Vec<Event>, Option<Time>) {
    let mut events = Vec::new();
    loop {
        let (to_b, _, timeout_a) = poll(now, a);
        let (to_a, more, timeout_b) = poll(now, b);
        events.extend(more);
        if to_a.is_empty() && to_b.is_empty() {
            let timeouts = [timeout_a, timeout_b];
            return (events, timeouts.into_iter().flatten().min());
        }
        for packet in to_b {
            b.handle_input(at(now), FIRST, packet);
        }
        for packet in to_a {
            a.handle_input(at(now), FIRST, packet);
        }
    }
}

fn poll(now: Time, session: &mut Session) -> (Vec<BytesMut>, Vec<Event>, Option<Time>) {
    let (mut packets, mut events) = (Vec::new(), Vec::new());
    let mut batch = Batch::new(0);
    loop {
        match session.poll_output(at(now), &mut batch) {
            Output::Transmit { .. } => {
                packets.extend(batch.packets_mut().map(|p| BytesMut::from(&*p)));
                batch.clear();
            }
            Output::Event(event) => events.push(event),
            Output::Timeout(timeout) => return (packets, events, timeout),
        }
    }
}
