//! One connection of the Unix socket: whole messages in, whole messages out.

use std::io;

use fairway_control::{DecodeError, EncodeError, FrameReader, Message, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::limits;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    stream: UnixStream,
    reader: FrameReader,
    buffer: Vec<u8>,
}

/// Why a connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The other side ended it between two messages.
    #[error("the stream has ended")]
    Ended,
    /// It ended within a message.
    #[error("the stream ended within a message")]
    Truncated,
    /// What came is no message.
    #[error("the peer sent what is no message")]
    Malformed(#[source] DecodeError),
    /// Our answer is no message.
    #[error("the answer cannot be sent")]
    Unsendable(#[source] EncodeError),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] io::Error),
    /// The other side did not read in time.
    #[error("the peer did not read for {} s", limits::WRITE_WAIT.as_secs())]
    Stuck,
}

impl Conn {
    /// A connection on a stream.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            reader: FrameReader::new(),
            buffer: Vec::new(),
        }
    }

    /// The next message. Cancelling loses nothing.
    ///
    /// # Errors
    /// The connection is at its end.
    pub async fn read<M: Message>(&mut self) -> Result<M, Closed> {
        loop {
            if let Some(message) = self.reader.next_message::<M>().map_err(Closed::Malformed)? {
                // An idle watch holds no buffer.
                self.buffer = Vec::new();
                return Ok(message);
            }
            self.stream.readable().await.map_err(Closed::Io)?;
            self.buffer.resize(limits::READ_BYTES, 0);
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) if self.reader.is_empty() => return Err(Closed::Ended),
                Ok(0) => return Err(Closed::Truncated),
                Ok(read) => self.reader.push(&self.buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Closed::Io(error)),
            }
        }
    }

    /// Writes a message.
    ///
    /// # Errors
    /// The connection is at its end.
    pub async fn write<M: Message>(&mut self, message: &M) -> Result<(), Closed> {
        let bytes = frame(message).map_err(Closed::Unsendable)?;
        match timeout(limits::WRITE_WAIT, self.stream.write_all(&bytes)).await {
            Ok(result) => result.map_err(Closed::Io),
            Err(_) => Err(Closed::Stuck),
        }
    }

    /// Says that nothing more is written, and waits for the other side to
    /// have read it, at most as long as a write may take.
    pub async fn finish(mut self) {
        let finish = async {
            self.stream.shutdown().await?;
            let mut rest = [0; 64];
            while self.stream.read(&mut rest).await? != 0 {}
            io::Result::Ok(())
        };
        // The peer is gone or silent: nothing is left to be done for it.
        let _ = timeout(limits::WRITE_WAIT, finish).await;
    }
}
