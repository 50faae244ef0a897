//! What a local caller says before the peer has said yes: it goes along with
//! OPEN, so that a new stream costs one round trip and not two. The peer hands
//! nothing of it on before its policy has allowed the stream.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::EARLY_MAX;
use crate::{Stream, StreamError};

/// The first words of a local connection.
pub(crate) struct Early<'a> {
    from: &'a mut TcpStream,
    n_sent: usize,
    /// Nothing more is taken: enough came, or the end did.
    is_over: bool,
}

impl<'a> Early<'a> {
    pub(crate) fn new(from: &'a mut TcpStream) -> Self {
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
            let words = tokio::select! {
                biased;
                answer = stream.accepted() => return answer,
                words = std::future::poll_fn(|cx| self.poll_words(cx)) => words,
            };
            self.n_sent += words.len();
            // A stream that takes nothing is over; that is the answer to OPEN.
            let _ = stream.send.write_chunk(words).await;
        }
    }

    /// What the caller says next; pending for good when no more is taken.
    fn poll_words(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.is_over {
            return Poll::Pending;
        }
        // On the stack for as long as the read takes, and in no task's state.
        let mut buffer = [MaybeUninit::uninit(); EARLY_MAX];
        let room = EARLY_MAX - self.n_sent;
        let mut words = ReadBuf::uninit(&mut buffer[..room]);
        let read = ready!(Pin::new(&mut *self.from).poll_read(cx, &mut words));
        let n = words.filled().len();
        self.is_over = read.is_err() || n == 0 || n == room;
        Poll::Ready(Bytes::copy_from_slice(words.filled()))
    }
}
