//! The session on circuit 0 of a link, and the control stream in it.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, FrameKind, Run, ToEndpoint, ToRelay, header};
use fairway_control::{FrameReader, Reason, frame, reason};
use fairway_identity::{Address, VerifiedTrustSet};
use fairway_session::{
    AnswerError, Batch, Code, Config, Event, Grant, Now, Output, PathId, PeerInfo, Permit,
    ReadOutcome, Refusal, Session, StreamId, Time, code,
};

use super::identity::Identity;
use super::outbound::Outbound;
use crate::limits;

/// The session with the other end of a link.
#[derive(Debug)]
pub(super) struct Control {
    session: Session,
    stream: Option<StreamId>,
    reader: FrameReader,
    /// Messages that the session has not taken yet.
    output: BytesMut,
    pending: Bytes,
    /// What the driver is to act on, in order.
    said: VecDeque<Said>,
    end: Option<Reason>,
    timeout: Option<Time>,
}

/// Something that came over the session.
#[derive(Debug)]
pub(super) enum Said {
    /// The peer is known now.
    Established(PeerInfo),
    /// It sent a message.
    Message(ToRelay),
    /// There is room for more messages to it.
    Room,
}

impl Control {
    /// Answers whoever is at the other end of a new link.
    pub(super) fn answer(
        identity: &Identity,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, AnswerError> {
        let (local, rules) = (identity.local.clone(), identity.rules.clone());
        let session = Session::answer(CONFIG.clone(), local, rules, NAMES.clone(), seed, now)?;
        Ok(Self {
            session,
            stream: None,
            reader: FrameReader::new(),
            output: BytesMut::new(),
            pending: Bytes::new(),
            said: VecDeque::new(),
            end: None,
            timeout: None,
        })
    }

    /// Takes frames of circuit 0. [`pump`](Self::pump) afterwards.
    pub(super) fn input(&mut self, now: Now, mut run: Run) {
        while let Some(packet) = run.next_payload() {
            // Out of the large read buffer: the session may keep it for a while.
            self.session
                .handle_input(now, PathId::FIRST, BytesMut::from(&packet[..]));
        }
    }

    /// Does what is due. [`pump`](Self::pump) afterwards.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        if self.timeout.is_some_and(|at| at <= now.mono) {
            self.session.handle_timeout(now);
        }
    }

    /// A newer trust set holds: a peer whose credential does not hold under it
    /// is put out. [`pump`](Self::pump) afterwards.
    pub(super) fn set_trust(&mut self, now: Now, trust: &VerifiedTrustSet) {
        self.session.set_trust(now, trust.clone());
    }

    /// Queues a message for the other end. [`pump`](Self::pump) afterwards.
    pub(super) fn send(&mut self, message: &ToEndpoint) {
        match frame(message) {
            Ok(bytes) => self.output.extend_from_slice(&bytes),
            Err(error) => {
                tracing::error!(event = "defect", %error, "a message to an endpoint breaks a rule");
            }
        }
    }

    /// Bytes of messages that wait here.
    pub(super) fn waiting(&self) -> usize {
        self.output.len() + self.pending.len()
    }

    /// Ends the session and tells the other end why. [`pump`](Self::pump) afterwards.
    pub(super) fn close(&mut self, now: Now, why: &Reason) {
        let refusal = Refusal::new(code_of(why.word()), why.text());
        self.session.close(now, refusal);
        self.end.get_or_insert_with(|| why.clone());
    }

    /// Fetches everything from the session: packets go into `out`, the rest is
    /// kept for [`next_said`](Self::next_said), [`end`](Self::end) and
    /// [`timeout`](Self::timeout).
    pub(super) fn pump(&mut self, now: Now, batch: &mut Batch, out: &mut Outbound) {
        self.write(now);
        loop {
            match self.session.poll_output(now, batch) {
                Output::Transmit { .. } => {}
                Output::Event(event) => self.on_event(now, event),
                Output::Timeout(at) => {
                    self.timeout = at;
                    break;
                }
            }
            if batch.len() >= limits::CONTROL_BATCH {
                transmit(batch, out);
            }
        }
        transmit(batch, out);
    }

    /// The link has been quiet: holds no more than it must.
    pub(super) fn release_memory(&mut self) {
        self.said.shrink_to_fit();
        self.session.release_memory();
    }

    /// What came since the last time.
    pub(super) fn next_said(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// Whether something came that nobody has looked at.
    pub(super) fn has_news(&self) -> bool {
        !self.said.is_empty() || self.end.is_some()
    }

    /// Why the session is over, once it is.
    pub(super) fn end(&self) -> Option<&Reason> {
        self.end.as_ref()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn timeout(&self) -> Option<Time> {
        self.timeout
    }

    fn on_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Established(peer) => self.said.push_back(Said::Established(peer)),
            Event::Incoming { stream, grant, .. } => self.on_incoming(now, stream, &grant),
            Event::Readable(stream) if self.stream == Some(stream) => self.read(now, stream),
            Event::Writable(_) => {
                self.write(now);
                self.said.push_back(Said::Room);
            }
            Event::Reset { stream, refusal }
            | Event::Stopped { stream, refusal }
            | Event::Ended { stream, refusal }
                if self.stream == Some(stream) =>
            {
                self.close(now, &Reason::new(refusal.word(), refusal.text));
            }
            Event::Closed { refusal, .. } => {
                let reason = Reason::new(refusal.word(), refusal.text);
                self.end.get_or_insert(reason);
            }
            Event::Refused { refusal, .. } => {
                tracing::debug!(
                    event = "stream-refused",
                    reason = refusal.word(),
                    text = refusal.text
                );
            }
            // The relay gets its trust sets from the authority; the session
            // that learned a newer one uses it.
            Event::TrustSetLearned(_)
            | Event::Readable(_)
            | Event::Reset { .. }
            | Event::Stopped { .. }
            | Event::Ended { .. }
            | Event::Accepted(_)
            | Event::StreamsAvailable
            | Event::Finished(_)
            | Event::Datagram { .. }
            | Event::Alive => {}
            // The same subject; the session judges it by its newer credential.
            Event::Renewed(_) => {}
            // The session of a link ends with its connection: it has one path.
            Event::PathActive { .. }
            | Event::PathFailed { .. }
            | Event::PathSilent { .. }
            | Event::PathRecovered { .. } => {}
        }
    }

    fn on_incoming(&mut self, now: Now, stream: StreamId, grant: &Grant) {
        let refusal = match (grant.permit(), self.stream) {
            (Permit::Control, None) => match self.session.accept(now, grant) {
                Ok(()) => {
                    self.stream = Some(stream);
                    return;
                }
                Err(error) => Refusal::new(code::MALFORMED, error.to_string()),
            },
            (Permit::Control, Some(_)) => {
                Refusal::new(code::OVERLOADED, "a link has one control stream")
            }
            (Permit::Tcp(_) | Permit::Http(_), _) => {
                Refusal::new(code::UNKNOWN_PORT, "a relay has no ports")
            }
        };
        self.session.reset(now, stream, &refusal);
    }

    fn read(&mut self, now: Now, stream: StreamId) {
        loop {
            match self.session.read(now, stream) {
                Ok(ReadOutcome::Chunk(bytes)) => self.reader.push(&bytes),
                Ok(ReadOutcome::Empty) => return,
                Ok(ReadOutcome::Finished) | Err(_) => {
                    return self.close(now, &Reason::new("done", "the control stream has ended"));
                }
            }
            loop {
                match self.reader.next_message() {
                    Ok(Some(message)) => self.said.push_back(Said::Message(message)),
                    Ok(None) => break,
                    Err(error) => {
                        let text = format!("a control message that cannot be read: {error}");
                        return self.close(now, &Reason::new(reason::PROTOCOL, text));
                    }
                }
            }
        }
    }

    fn write(&mut self, now: Now) {
        let Some(stream) = self.stream else {
            return;
        };
        loop {
            if self.pending.is_empty() {
                self.pending = self.output.split().freeze();
            }
            if self.pending.is_empty() {
                (self.output, self.pending) = (BytesMut::new(), Bytes::new());
                return;
            }
            match self.session.write(now, stream, &mut self.pending) {
                Ok(_) if self.pending.is_empty() => {}
                Ok(_) => return,
                // The stream is over; its end comes as an event.
                Err(_) => {
                    self.output.clear();
                    self.pending.clear();
                }
            }
        }
    }
}

/// A control stream needs little room: it carries short messages. Made once,
/// and shared by all links.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Config::new()
        .session_window(limits::CONTROL_WINDOW)
        .and_then(|config| config.stream_window(limits::CONTROL_WINDOW))
        .and_then(|config| config.send_buffer(limits::CONTROL_BYTES_MAX))
        .and_then(|config| config.max_streams(2))
        .expect("the limits are in range")
        .handshake_timeout(limits::HANDSHAKE_TIMEOUT)
});

/// What a relay answers to, likewise.
static NAMES: LazyLock<Arc<[Address]>> = LazyLock::new(|| Arc::new([Address::Relay]));

/// Puts frame headers before the packets and queues them as one piece.
fn transmit(batch: &mut Batch, out: &mut Outbound) {
    if batch.is_empty() {
        return;
    }
    for packet in batch.packets_mut() {
        let header = header(FrameKind::Data, CircuitId::LINK, packet.len() - LINK_HEADER)
            .expect("a packet is never larger than a frame may be");
        packet[..LINK_HEADER].copy_from_slice(&header);
    }
    out.push(CircuitId::LINK, Bytes::copy_from_slice(batch.as_slice()));
    batch.clear();
}

/// The session's code for a reason of the core.
fn code_of(word: &str) -> Code {
    match word {
        reason::REVOKED => code::REVOKED,
        reason::OVERLOADED => code::OVERLOADED,
        reason::DRAINING => code::SHUTDOWN,
        reason::PROTOCOL => Code::PROTOCOL_VIOLATION,
        "done" => Code::DONE,
        _ => code::CANCELLED,
    }
}
