//! A link over QUIC: the frames of each circuit on a stream of their own.
//!
//! Towards the link's driver [`QuicLink`] is one byte stream of frames, like
//! any other transport. Whole frames are put on, and taken off, the stream of
//! their circuit; those of different circuits come in the order in which they
//! arrive, so what is lost on one circuit stalls no other.
//!
//! Circuit 0 has the client's first stream. The stream of any other circuit is
//! opened by the side that picked the circuit's id, and begins with 8 bytes: how
//! much that side had written on circuit 0's stream before. The other side
//! reads no further before it has read that much of circuit 0's stream, so that
//! data never overtakes the message that announces its circuit.
//!
//! DATAGRAM frames go as QUIC's datagrams where they fit the path, outside of
//! all streams, and on their circuit's stream else.

mod datagrams;
mod reader;
mod setup;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use fairway_control::link::{CircuitId, FrameKind, Header};
use futures::future::BoxFuture;
use futures::stream::{AbortHandle, AbortRegistration, Abortable, BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

pub(super) use self::setup::connect;
pub use self::setup::server_config;

use self::datagrams::Datagrams;
use self::reader::{Arrived, Begin, Reader};
use super::LinkIo;
use crate::limits::{
    QUIC_CIRCUITS_OVER_KEPT, QUIC_CLOSE_TIMEOUT, QUIC_HALF_OPEN_WINDOW, QUIC_RECEIVE_WINDOW,
    QUIC_UNSENT_MAX,
};

/// A link's frames on the streams of one QUIC connection.
pub struct QuicLink {
    connection: Connection,
    is_client: bool,
    /// Where the frames of each circuit go.
    circuits: BTreeMap<u32, Circuit>,
    /// Circuits with something that their stream has not taken.
    unsent: BTreeSet<u32>,
    unsent_bytes: usize,
    over: Over,
    /// Bytes written on circuit 0's stream.
    link_written: u64,
    /// Bytes of circuit 0's stream that have been handed out.
    link_read: watch::Sender<u64>,
    /// Bytes of incomplete frames that all readers hold.
    held: Arc<AtomicUsize>,
    accepting: BoxFuture<'static, Streams>,
    readers: SelectAll<Abortable<BoxStream<'static, io::Result<Arrived>>>>,
    datagrams: Datagrams,
    /// Frames that were read and not yet handed out.
    ready: Bytes,
    closing: Option<BoxFuture<'static, ()>>,
}

type Streams = Result<(SendStream, RecvStream), ConnectionError>;

/// One circuit, as its writer sees it.
struct Circuit {
    stream: Outgoing,
    /// Whole frames, the first perhaps begun.
    unsent: BytesMut,
    /// Ends its reader.
    reader: Option<AbortHandle>,
    /// The stream ends with what is unsent.
    is_over: bool,
}

enum Outgoing {
    /// Ours to open, and being opened.
    Opening(BoxFuture<'static, Streams>),
    /// The other side's to open.
    Expected,
    Open(SendStream),
}

/// The circuits that were over last: what comes late for them is dropped.
#[derive(Default)]
struct Over {
    order: VecDeque<u32>,
    ids: BTreeSet<u32>,
}

/// How far a circuit's unsent bytes got.
enum Sent {
    All,
    Some,
    /// The other side wants no more of them.
    Unwanted,
}

impl QuicLink {
    /// A link on a connection that this side has dialled.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn dialled(connection: Connection) -> Result<Self, ConnectionError> {
        let streams = connection.open_bi().await?;
        Ok(Self::new(connection, true, streams))
    }

    /// A link on a connection that this side has accepted, once the other one
    /// has sent something on circuit 0.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn accepted(connection: Connection) -> Result<Self, ConnectionError> {
        let streams = connection.accept_bi().await?;
        Ok(Self::new(connection, false, streams))
    }

    fn new(connection: Connection, is_client: bool, streams: (SendStream, RecvStream)) -> Self {
        let mut link = Self {
            accepting: accept(&connection),
            datagrams: Datagrams::new(&connection),
            connection,
            is_client,
            circuits: BTreeMap::new(),
            unsent: BTreeSet::new(),
            unsent_bytes: 0,
            over: Over::default(),
            link_written: 0,
            link_read: watch::Sender::default(),
            held: Arc::default(),
            readers: SelectAll::new(),
            ready: Bytes::new(),
            closing: None,
        };
        let (send, recv) = streams;
        let mut circuit = Circuit::new(Outgoing::Open(send));
        circuit.reader = Some(link.read_circuit(CircuitId::LINK.0, recv));
        link.circuits.insert(CircuitId::LINK.0, circuit);
        link
    }

    /// Whether this side picks ids like this one, and so opens its stream.
    fn is_ours(&self, circuit: u32) -> bool {
        CircuitId(circuit).is_endpoints() == self.is_client
    }

    // --- reading ---

    /// Reads the stream of a circuit whose frames may come at once.
    fn read_circuit(&mut self, circuit: u32, recv: RecvStream) -> AbortHandle {
        let (handle, registration) = AbortHandle::new_pair();
        let reader = Reader::new(recv, circuit, self.held.clone());
        self.add_reader(registration, reader.frames().boxed());
        handle
    }

    /// Reads a stream that the other side has opened.
    fn on_accepted(&mut self, send: SendStream, recv: RecvStream) {
        let (handle, registration) = AbortHandle::new_pair();
        let begin = Begin {
            send,
            handle,
            link_read: self.link_read.subscribe(),
            from_endpoint: !self.is_client,
        };
        let reader = Reader::new(recv, CircuitId::LINK.0, self.held.clone());
        self.add_reader(registration, reader.begin(begin).boxed());
    }

    fn add_reader(
        &mut self,
        registration: AbortRegistration,
        frames: BoxStream<'static, io::Result<Arrived>>,
    ) {
        self.readers.push(Abortable::new(frames, registration));
    }

    /// Fetches frames into `ready`; `false` at the end of the link.
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // By turns, so that neither datagrams nor streams keep the others out.
        if self.datagrams.is_turn() && self.poll_datagram(cx)?.is_ready() {
            return Poll::Ready(Ok(true));
        }
        match self.poll_streams(cx) {
            Poll::Pending => self.poll_datagram(cx).map_ok(|()| true),
            arrived @ Poll::Ready(_) => arrived,
        }
    }

    fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (circuit, frame) = ready!(self.datagrams.poll_next(cx))?;
            if !self.over.has(circuit) {
                self.ready = frame;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The same of what comes on streams.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if let Poll::Ready(streams) = self.accepting.poll_unpin(cx) {
                match streams {
                    Ok((send, recv)) => {
                        self.accepting = accept(&self.connection);
                        self.on_accepted(send, recv);
                        continue;
                    }
                    Err(error) => {
                        self.accepting = futures::future::pending().boxed();
                        // What had come before is still read.
                        if !is_clean(&error) {
                            return Poll::Ready(Err(error.into()));
                        }
                    }
                }
            }
            let Some(arrived) = ready!(Pin::new(&mut self.readers).poll_next(cx)) else {
                // Not even circuit 0 is left.
                return Poll::Ready(Ok(false));
            };
            match arrived? {
                Arrived::Frames { circuit, frames } => {
                    if circuit == CircuitId::LINK.0 {
                        self.link_read.send_modify(|n| *n += frames.len() as u64);
                    } else if self.over.has(circuit) {
                        continue;
                    }
                    self.ready = frames;
                    return Poll::Ready(Ok(true));
                }
                Arrived::Begun {
                    circuit,
                    send,
                    handle,
                } => self.on_begun(circuit, send, handle)?,
                Arrived::Ended { circuit: 0 } => return Poll::Ready(Ok(false)),
                Arrived::Ended { circuit } => self.on_ended(circuit),
            }
        }
    }

    /// The other side has begun the stream of a circuit.
    fn on_begun(&mut self, circuit: u32, send: SendStream, handle: AbortHandle) -> io::Result<()> {
        if self.over.has(circuit) {
            // Dropped, so both directions end.
            handle.abort();
            return Ok(());
        }
        let known = self
            .circuits
            .entry(circuit)
            .or_insert_with(|| Circuit::new(Outgoing::Expected));
        if !matches!(known.stream, Outgoing::Expected) {
            return Err(wrong("a second stream for one circuit"));
        }
        known.stream = Outgoing::Open(send);
        known.reader = Some(handle);
        if !known.unsent.is_empty() {
            self.unsent.insert(circuit);
        }
        Ok(())
    }

    /// The other side is through with a circuit.
    fn on_ended(&mut self, circuit: u32) {
        self.over.add(circuit);
        self.drop_circuit(circuit);
    }

    // --- writing ---

    /// Takes one whole frame.
    fn push(&mut self, circuit: u32, frame: &[u8]) {
        if self.over.has(circuit) {
            return;
        }
        if circuit == CircuitId::LINK.0 {
            self.link_written += frame.len() as u64;
        }
        if !self.circuits.contains_key(&circuit) {
            let begun = self.begin(circuit);
            self.unsent_bytes += begun.unsent.len();
            self.circuits.insert(circuit, begun);
        }
        if let Some(known) = self.circuits.get_mut(&circuit)
            && !known.is_over
        {
            known.unsent.extend_from_slice(frame);
            self.unsent_bytes += frame.len();
            self.unsent.insert(circuit);
        }
    }

    /// A circuit that is written to for the first time.
    fn begin(&self, circuit: u32) -> Circuit {
        if !self.is_ours(circuit) {
            return Circuit::new(Outgoing::Expected);
        }
        let connection = self.connection.clone();
        let opening = async move { connection.open_bi().await }.boxed();
        let mut begun = Circuit::new(Outgoing::Opening(opening));
        begun
            .unsent
            .extend_from_slice(&self.link_written.to_be_bytes());
        begun
    }

    /// Gives the streams what they take.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut next = self.unsent.first().copied();
        while let Some(id) = next {
            self.send_circuit(cx, id)?;
            next = self.unsent.range(id + 1..).next().copied();
        }
        Ok(())
    }

    fn send_circuit(&mut self, cx: &mut Context<'_>, id: u32) -> io::Result<()> {
        let Some(circuit) = self.circuits.get_mut(&id) else {
            self.unsent.remove(&id);
            return Ok(());
        };
        if let Outgoing::Opening(opening) = &mut circuit.stream {
            let Poll::Ready(streams) = opening.poll_unpin(cx) else {
                return Ok(());
            };
            let (send, recv) = streams?;
            circuit.stream = Outgoing::Open(send);
            let handle = self.read_circuit(id, recv);
            if let Some(circuit) = self.circuits.get_mut(&id) {
                circuit.reader = Some(handle);
            }
        }
        let Some(circuit) = self.circuits.get_mut(&id) else {
            return Ok(());
        };
        let n_before = circuit.unsent.len();
        let sent = circuit.poll_send(cx)?;
        self.unsent_bytes -= n_before - circuit.unsent.len();
        let is_over = circuit.is_over;
        match sent {
            Sent::All if is_over => self.drop_circuit(id),
            Sent::All => {
                self.unsent.remove(&id);
            }
            Sent::Some => {}
            Sent::Unwanted if id == CircuitId::LINK.0 => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Sent::Unwanted => self.on_ended(id),
        }
        Ok(())
    }

    /// Forgets a circuit: its stream is finished with what it has taken.
    fn drop_circuit(&mut self, id: u32) {
        self.unsent.remove(&id);
        if let Some(circuit) = self.circuits.remove(&id) {
            self.unsent_bytes -= circuit.unsent.len();
            if let Some(reader) = &circuit.reader {
                reader.abort();
            }
        }
    }

    /// Takes whole frames off `bytes`; how many bytes that were.
    fn take_frames(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut n = 0;
        loop {
            let rest = &bytes[n..];
            let header = Header::peek(rest).map_err(|error| wrong(&error.to_string()))?;
            let Some(header) = header else {
                break;
            };
            let Some(frame) = rest.get(..header.frame_len()) else {
                break;
            };
            match header.kind {
                FrameKind::Datagram => self.push_datagram(header.circuit.0, frame),
                FrameKind::Data | FrameKind::Refused if self.is_full() => break,
                FrameKind::Data | FrameKind::Refused => self.push(header.circuit.0, frame),
            }
            n += frame.len();
        }
        Ok(n)
    }

    fn is_full(&self) -> bool {
        self.unsent_bytes >= QUIC_UNSENT_MAX
    }

    /// Takes one whole DATAGRAM frame, or throws it away.
    fn push_datagram(&mut self, circuit: u32, frame: &[u8]) {
        if self.over.has(circuit) || self.datagrams.send(&self.connection, frame) {
            return;
        }
        if self.is_full() {
            self.datagrams.count_dropped();
        } else {
            self.push(circuit, frame);
        }
    }
}

impl Circuit {
    fn new(stream: Outgoing) -> Self {
        Self {
            stream,
            unsent: BytesMut::new(),
            reader: None,
            is_over: false,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<Sent> {
        let Outgoing::Open(stream) = &mut self.stream else {
            return Ok(Sent::Some);
        };
        while !self.unsent.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.unsent) {
                Poll::Ready(Ok(n)) => self.unsent.advance(n),
                Poll::Ready(Err(WriteError::Stopped(_) | WriteError::ClosedStream)) => {
                    return Ok(Sent::Unwanted);
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(Sent::Some),
            }
        }
        // Most circuits are quiet most of the time.
        self.unsent = BytesMut::new();
        Ok(Sent::All)
    }
}

impl Over {
    fn has(&self, circuit: u32) -> bool {
        self.ids.contains(&circuit)
    }

    fn add(&mut self, circuit: u32) {
        if self.ids.insert(circuit) {
            self.order.push_back(circuit);
        }
        if self.order.len() > QUIC_CIRCUITS_OVER_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

impl LinkIo for QuicLink {
    fn circuit_over(&mut self, circuit: u32) {
        self.over.add(circuit);
        if self.unsent.contains(&circuit) {
            // Its last words still go out.
            if let Some(circuit) = self.circuits.get_mut(&circuit) {
                circuit.is_over = true;
                if let Some(reader) = circuit.reader.take() {
                    reader.abort();
                }
            }
        } else {
            self.drop_circuit(circuit);
        }
    }

    fn authenticated(&mut self, n_circuits: usize) {
        let streams = VarInt::try_from(n_circuits as u64 + 1).unwrap_or(VarInt::MAX);
        self.connection.set_max_concurrent_bi_streams(streams);
        // Who may have few circuits needs little room.
        let window = u64::from(QUIC_HALF_OPEN_WINDOW).saturating_mul(streams.into_inner());
        let window = window.min(u64::from(QUIC_RECEIVE_WINDOW));
        self.connection
            .set_receive_window(VarInt::try_from(window).unwrap_or(VarInt::MAX));
    }

    fn take_dropped_datagrams(&mut self) -> u64 {
        self.datagrams.take_dropped()
    }
}

impl AsyncRead for QuicLink {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.poll_send(cx)?;
        let room = buf.remaining();
        while buf.remaining() > 0 {
            if this.ready.is_empty() {
                match this.poll_arrived(cx) {
                    Poll::Ready(Ok(true)) => {}
                    // Once more without anything, and it is the end.
                    Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if buf.remaining() < room => break,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let n = this.ready.len().min(buf.remaining());
            buf.put_slice(&this.ready[..n]);
            this.ready.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for QuicLink {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    /// Each slice begins with a frame and holds whole ones; so does what is
    /// taken.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let was_full = this.is_full();
        let mut n = 0;
        for slice in slices {
            let taken = this.take_frames(slice)?;
            n += taken;
            if taken < slice.len() {
                break;
            }
        }
        this.poll_send(cx)?;
        if n > 0 {
            return Poll::Ready(Ok(n));
        }
        if !was_full {
            return if slices.iter().all(|slice| slice.is_empty()) {
                Poll::Ready(Ok(0))
            } else {
                Poll::Ready(Err(wrong("not a whole frame")))
            };
        }
        if !this.is_full() {
            // There is room again.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)?;
        if self.unsent.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Ends circuit 0's stream, waits (bounded) until the other side has it,
    /// and closes the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            let _ = this.poll_send(cx);
            let link = this.circuits.remove(&CircuitId::LINK.0);
            let connection = this.connection.clone();
            let closing = async move {
                if let Some(Outgoing::Open(mut send)) = link.map(|link| link.stream)
                    && send.finish().is_ok()
                {
                    let _ = tokio::time::timeout(QUIC_CLOSE_TIMEOUT, send.stopped()).await;
                }
                connection.close(VarInt::from_u32(0), b"");
            };
            this.closing = Some(closing.boxed());
        }
        if let Some(closing) = &mut this.closing {
            ready!(closing.poll_unpin(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicLink")
            .field("remote", &self.connection.remote_address())
            .field("circuits", &self.circuits.len())
            .field("unsent_bytes", &self.unsent_bytes)
            .finish_non_exhaustive()
    }
}

fn accept(connection: &Connection) -> BoxFuture<'static, Streams> {
    let connection = connection.clone();
    async move { connection.accept_bi().await }.boxed()
}

/// Whether somebody ended the connection on purpose.
fn is_clean(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed
    )
}

/// The other side breaks a rule of the link.
fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests;
