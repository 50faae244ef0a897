//! One end of a secure channel.

use bytes::{Bytes, BytesMut};

use crate::{
    Batch, Config, CreateError, DatagramError, OpenError, Output, PacketError, ReadOutcome, Reason,
    StaticSecret, Stats, StreamError, StreamId, Time,
};

/// One end of a secure channel. The [crate docs](crate) have the contract.
pub struct Channel {
    _todo: (),
}

/// The name that a first handshake packet wants to reach, for routing: nothing
/// in it has been verified yet.
pub fn peek_dialled(packet: &[u8]) -> Result<&str, PacketError> {
    todo!()
}

impl Channel {
    /// The end that dials. `purpose` is a free byte of the layer above, bound
    /// by the handshake; `dialled` names who is wanted and goes in the clear.
    ///
    /// `seed` must be fresh random bytes: the ephemeral key is derived from it.
    pub fn initiator(
        config: Config,
        secret: &StaticSecret,
        seed: [u8; 32],
        purpose: u8,
        dialled: &str,
        now: Time,
    ) -> Result<Self, CreateError> {
        todo!()
    }

    /// The end that answers. `hello` goes into message 2, which whoever dials
    /// can read without having shown who it is. More than
    /// [`limits::MAX_HELLO`](crate::limits::MAX_HELLO) bytes close the channel.
    pub fn responder(
        config: Config,
        secret: &StaticSecret,
        seed: [u8; 32],
        hello: Vec<u8>,
        now: Time,
    ) -> Self {
        todo!()
    }

    /// Whether this end dialled.
    pub fn is_initiator(&self) -> bool {
        todo!()
    }

    /// Whom the initiator wants to reach; the responder knows it after message 1.
    /// Before the handshake is complete a responder must not trust it.
    pub fn dialled(&self) -> Option<&str> {
        todo!()
    }

    /// The purpose byte of the initiator; the responder knows it after message 1.
    pub fn purpose(&self) -> Option<u8> {
        todo!()
    }

    /// The hash of the complete handshake, equal at both ends and unique to
    /// this channel. `None` before the handshake is complete.
    pub fn handshake_hash(&self) -> Option<[u8; 32]> {
        todo!()
    }

    /// The peer's static key, once it has been proven.
    pub fn remote_static(&self) -> Option<[u8; 32]> {
        todo!()
    }

    /// Takes one packet. It is opened in place; a large piece of a stream that
    /// comes in order is handed out by [`Channel::read`] as a slice of it.
    pub fn handle_input(&mut self, now: Time, packet: BytesMut) {
        todo!()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        todo!()
    }

    /// What is to be done next. Call until it answers [`Output::Timeout`].
    /// Packets are put behind those that `batch` already has.
    pub fn poll_output(&mut self, now: Time, batch: &mut Batch) -> Output {
        todo!()
    }

    /// The answer to [`Event::PeerHello`](crate::Event::PeerHello): the peer is
    /// fine, go on. `hello` is this side's own: of message 3 for the
    /// initiator's first, of the HELLO frame for the responder; for the
    /// initiator's second it is not used and should be empty.
    pub fn proceed(&mut self, now: Time, hello: Vec<u8>) {
        todo!()
    }

    /// Opens a stream; data may be written at once, before the peer accepts.
    pub fn open(&mut self, now: Time, header: Vec<u8>) -> Result<StreamId, OpenError> {
        todo!()
    }

    /// Accepts a stream that the peer opened. Only then can it be read and written.
    pub fn accept(&mut self, now: Time, stream: StreamId) -> Result<(), StreamError> {
        todo!()
    }

    /// Ends both halves at once: RESET for what this side sends, STOP for what
    /// the peer sends. Refuses a stream that was not accepted yet. No event
    /// follows; a stream that is over already is left alone.
    pub fn reset(&mut self, now: Time, stream: StreamId, reason: Reason) {
        todo!()
    }

    /// Wants nothing more from the peer on this stream; the sending half stays.
    pub fn stop(&mut self, now: Time, stream: StreamId, reason: Reason) {
        todo!()
    }

    /// Ends the sending half in good order, after all that was written.
    pub fn finish(&mut self, now: Time, stream: StreamId) -> Result<(), StreamError> {
        todo!()
    }

    /// Takes as much of `data` as the send buffer has room for, advances it,
    /// and says how much. Less than all: wait for
    /// [`Event::Writable`](crate::Event::Writable). The bytes are not copied
    /// here, only once, into the batch.
    pub fn write(
        &mut self,
        now: Time,
        stream: StreamId,
        data: &mut Bytes,
    ) -> Result<usize, StreamError> {
        todo!()
    }

    /// The next bytes of a stream. Taking them gives credit back to the peer.
    pub fn read(&mut self, now: Time, stream: StreamId) -> Result<ReadOutcome, StreamError> {
        todo!()
    }

    /// Sends bytes that may get lost.
    pub fn send_datagram(&mut self, now: Time, data: Bytes) -> Result<(), DatagramError> {
        todo!()
    }

    /// Asks the peer for a sign of life: [`Event::Alive`](crate::Event::Alive).
    pub fn ping(&mut self, now: Time) {
        todo!()
    }

    /// Ends the channel at once; the peer is told why, if it can be.
    pub fn close(&mut self, now: Time, reason: Reason) {
        todo!()
    }

    /// Whether the channel is over (nothing more can be read or written).
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Whether streams may be opened.
    pub fn is_ready(&self) -> bool {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        todo!()
    }
}
