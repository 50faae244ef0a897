//! The hot path between a local TCP connection and a stream.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};
use fairway_session::{Refusal, code};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::buffer::ReadBuffer;
use crate::limits::{QUIET, READ_SIZE_MAX, SMALL_READ, WRITE_SLICES_MAX};
use crate::{RecvStream, SendStream, Stream, StreamError};

/// How a joined connection went.
#[derive(Debug)]
pub struct Joined {
    /// Bytes from the peer to the local connection.
    pub from_peer: u64,
    /// Bytes from the local connection to the peer.
    pub to_peer: u64,
    /// Machine-readable reason of the end; `done` when both sides finished.
    pub reason: String,
}

/// Copies both ways until both have ended, with half-close, in large reads and
/// vectored writes. `head` goes to the peer first (bytes that were read from
/// the local connection already).
pub async fn join(mut local: TcpStream, stream: Stream, head: Bytes) -> Joined {
    let (mut recv, mut send) = stream.split();
    let (mut to_peer, mut from_peer) = (0, 0);
    let (read, write) = local.split();
    let is_read_out = AtomicBool::new(false);
    let result = tokio::try_join!(
        async {
            upward(read, &mut send, head, &mut to_peer).await?;
            is_read_out.store(true, Ordering::Relaxed);
            Ok(())
        },
        async {
            let mut write = downward(&mut recv, write, &mut from_peer).await?;
            // Otherwise closing it, which is next, tells the other end as well.
            if !is_read_out.load(Ordering::Relaxed) {
                write.shutdown().await.map_err(End::Local)?;
            }
            Ok(())
        },
    );
    let reason = match result {
        Ok(_) => "done".to_owned(),
        Err(End::Stream(error)) => error.reason().to_owned(),
        Err(End::Local(error)) => {
            send.reset(&Refusal::new(
                code::APP_FAILED,
                format!("the application's connection broke: {}", error.kind()),
            ));
            "app-failed".to_owned()
        }
    };
    Joined {
        from_peer,
        to_peer,
        reason,
    }
}

/// Which side broke.
enum End {
    Stream(StreamError),
    Local(io::Error),
}

async fn upward(
    mut local: ReadHalf<'_>,
    send: &mut SendStream,
    head: Bytes,
    count: &mut u64,
) -> Result<(), End> {
    *count += head.len() as u64;
    send.write_chunk(head).await.map_err(End::Stream)?;
    let mut buffer = ReadBuffer::default();
    loop {
        let n = read(&mut buffer, &mut local).await.map_err(End::Local)?;
        if n == 0 {
            send.finish();
            return Ok(());
        }
        let data = buffer.data.split().freeze();
        *count += data.len() as u64;
        send.write_chunk(data).await.map_err(End::Stream)?;
        if n > SMALL_READ {
            // It is sent before more is read: what waits for long has left the
            // processor's caches by the time it is sealed.
            tokio::task::yield_now().await;
        }
    }
}

/// One read; gives the buffer back if nothing comes for a while.
async fn read(buffer: &mut ReadBuffer, local: &mut ReadHalf<'_>) -> io::Result<usize> {
    if buffer.holds_memory() {
        let reading = poll_fn(|cx| buffer.poll_read(cx, local));
        match tokio::time::timeout(QUIET, reading).await {
            Ok(n) => return n,
            Err(_) => buffer.release(),
        }
    }
    poll_fn(|cx| buffer.poll_read(cx, local)).await
}

async fn downward<'a>(
    recv: &mut RecvStream,
    mut local: WriteHalf<'a>,
    count: &mut u64,
) -> Result<WriteHalf<'a>, End> {
    let mut chunks = Vec::new();
    while recv
        .read_chunks(&mut chunks, READ_SIZE_MAX)
        .await
        .map_err(End::Stream)?
    {
        write_all(&mut local, &mut chunks, count)
            .await
            .map_err(End::Local)?;
    }
    Ok(local)
}

async fn write_all(
    local: &mut WriteHalf<'_>,
    chunks: &mut Vec<Bytes>,
    count: &mut u64,
) -> io::Result<()> {
    let mut first = 0;
    while first < chunks.len() {
        let rest = &chunks[first..];
        // The slices are made anew at each turn: a connection that waits does
        // not keep them.
        let mut n = poll_fn(|cx| {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let filled = rest.iter().zip(&mut slices);
            let n_slices = filled
                .map(|(chunk, slice)| *slice = IoSlice::new(chunk))
                .count();
            Pin::new(&mut *local).poll_write_vectored(cx, &slices[..n_slices])
        })
        .await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *count += n as u64;
        while n > 0 {
            let taken = n.min(chunks[first].len());
            chunks[first].advance(taken);
            n -= taken;
            first += usize::from(chunks[first].is_empty());
        }
    }
    chunks.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection is little more than its task.
    #[test]
    fn a_joined_connection_is_small() {
        let size = size_of_future(join);
        assert!(size <= 1_024, "{size} bytes");
    }

    fn size_of_future<F>(_: impl Fn(TcpStream, Stream, Bytes) -> F) -> usize {
        size_of::<F>()
    }
}
