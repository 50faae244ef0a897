//! What a local caller says before the peer has said yes: it goes along with
//! OPEN, so that a new stream costs one round trip and not two. The peer hands
//! nothing of it on before its policy has allowed the stream.

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::limits::EARLY_MAX;
use crate::{SendStream, Stream, StreamError};

/// The first words of a local connection.
pub(crate) struct Early<'a> {
    from: &'a TcpStream,
    n_sent: usize,
    /// Nothing more is taken: enough came, or the end did.
    is_over: bool,
}

impl<'a> Early<'a> {
    pub(crate) fn new(from: &'a TcpStream) -> Self {
        Self {
            from,
            n_sent: 0,
            is_over: false,
        }
    }

    /// How much was taken from the connection, and sent. Once there is some,
    /// the call must not be made a second time: it may have been heard.
    pub(crate) fn n_sent(&self) -> usize {
        self.n_sent
    }

    /// Waits for the peer's answer, and passes on what the caller says meanwhile.
    pub(crate) async fn accepted(&mut self, stream: &mut Stream) -> Result<(), StreamError> {
        loop {
            tokio::select! {
                biased;
                answer = stream.accepted() => return answer,
                () = self.heard() => self.pass_on(&mut stream.send).await,
            }
        }
    }

    /// Waits for words; forever when no more are taken.
    async fn heard(&self) {
        if self.is_over || self.from.readable().await.is_err() {
            std::future::pending().await
        }
    }

    async fn pass_on(&mut self, stream: &mut SendStream) {
        let words = self.take();
        self.n_sent += words.len();
        // A stream that takes nothing is over; that is the answer to OPEN.
        let _ = stream.write_chunk(words).await;
    }

    fn take(&mut self) -> Bytes {
        // On the stack for as long as the read takes, and in no task's state.
        let mut buffer = [0; EARLY_MAX];
        let room = EARLY_MAX - self.n_sent;
        match self.from.try_read(&mut buffer[..room]) {
            Ok(n) => {
                self.is_over = n == 0 || n == room;
                Bytes::copy_from_slice(&buffer[..n])
            }
            Err(error) => {
                self.is_over = error.kind() != std::io::ErrorKind::WouldBlock;
                Bytes::new()
            }
        }
    }
}
