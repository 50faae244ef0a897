//! Large reads whose pieces are handed on without a copy.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::limits::{READ_SIZE_MAX, READ_SIZE_MIN, SMALL_READ, SPARE_BUFFERS_MAX};

/// A buffer that grows while reads fill it, reuses its memory once the pieces
/// that were split off have been dropped, and holds none while idle.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    /// What has been read and not yet split off.
    pub(crate) data: BytesMut,
    /// Earlier buffers whose pieces may still be in use.
    spares: VecDeque<BytesMut>,
    /// Size of the next read; 0 while little comes.
    read_size: usize,
    read_size_max: usize,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self {
            data: BytesMut::new(),
            spares: VecDeque::new(),
            read_size: 0,
            read_size_max: READ_SIZE_MAX,
        }
    }
}

impl ReadBuffer {
    /// Reads are never larger than this from now on, but for the least size
    /// that is of use.
    pub(crate) fn set_read_size_max(&mut self, bytes: usize) {
        self.read_size_max = bytes.max(READ_SIZE_MIN);
        self.read_size = self.read_size.min(self.read_size_max);
    }

    /// About how much memory it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.read_size * (1 + self.spares.len())
    }

    /// One read, as large as recent ones suggest. `0` is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.read_size == 0 {
            return self.poll_small_read(cx, io);
        }
        self.make_room();
        let room = self.data.capacity() - self.data.len();
        let n = ready!(tokio_util::io::poll_read_buf(
            Pin::new(io),
            cx,
            &mut self.data
        ))?;
        if n == room {
            self.read_size = (self.read_size * 4).min(self.read_size_max);
        }
        Poll::Ready(Ok(n))
    }

    /// Whether there is memory to give back.
    pub(crate) fn holds_memory(&self) -> bool {
        self.read_size > 0
    }

    /// Gives memory back. Call when it has been quiet for some time.
    pub(crate) fn release(&mut self) {
        self.spares = VecDeque::new();
        if self.data.is_empty() {
            self.data = BytesMut::new();
            self.read_size = 0;
        }
    }

    /// While little comes, reads go to the stack first, so that whoever waits
    /// holds no buffer, and a small message only its own size.
    fn poll_small_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); SMALL_READ];
        let mut small = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(io).poll_read(cx, &mut small))?;
        let n = small.filled().len();
        self.data.extend_from_slice(small.filled());
        if n == SMALL_READ {
            self.read_size = READ_SIZE_MIN;
        }
        Poll::Ready(Ok(n))
    }

    /// Makes room for a read; what is there already moves to the new buffer.
    fn make_room(&mut self) {
        let room = self.data.capacity() - self.data.len();
        // Half a buffer is a fine read too, and moving costs a copy.
        if room >= self.read_size / 2 {
            return;
        }
        // All of its pieces are gone: it is the one that is still in the caches.
        if self.data.is_empty() && self.data.try_reclaim(self.read_size) {
            return;
        }
        let size = self.read_size + self.data.len();
        // Of the others the one that was used last.
        let free = (0..self.spares.len())
            .rev()
            .find(|&i| self.spares[i].try_reclaim(size));
        let mut fresh = match free {
            Some(at) => self.spares.remove(at).unwrap_or_default(),
            None => BytesMut::with_capacity(size),
        };
        fresh.extend_from_slice(&self.data);
        self.data.clear();
        let old = std::mem::replace(&mut self.data, fresh);
        if self.spares.len() == SPARE_BUFFERS_MAX {
            self.spares.pop_front();
        }
        self.spares.push_back(old);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(buffer: &mut ReadBuffer, io: &mut tokio::io::DuplexStream) -> usize {
        std::future::poll_fn(|cx| buffer.poll_read(cx, io))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_size_of_reads_can_be_limited() {
        let (mut near, mut far) = tokio::io::duplex(1 << 22);
        let mut buffer = ReadBuffer::default();
        assert_eq!(buffer.held_bytes(), 0);
        buffer.set_read_size_max(0);
        near.write_all(&vec![7; 1 << 20]).await.unwrap();
        let mut total = 0;
        while total < 1 << 20 {
            total += read(&mut buffer, &mut far).await;
            buffer.data.clear();
            assert!(buffer.held_bytes() <= 2 * READ_SIZE_MIN);
        }
    }

    #[tokio::test]
    async fn reads_grow_and_memory_is_reused() {
        let (mut near, mut far) = tokio::io::duplex(1 << 22);
        let mut buffer = ReadBuffer::default();
        let mut addresses = std::collections::BTreeSet::new();
        for _ in 0..40 {
            near.write_all(&vec![7; READ_SIZE_MAX]).await.unwrap();
            let mut total = 0;
            while total < READ_SIZE_MAX {
                total += read(&mut buffer, &mut far).await;
                addresses.insert(buffer.data.as_ptr() as usize & !(READ_SIZE_MAX - 1));
                assert!(buffer.data.split().iter().all(|&b| b == 7));
            }
        }
        assert_eq!(buffer.read_size, READ_SIZE_MAX);
        assert!(addresses.len() < 16, "{} buffers", addresses.len());
    }

    #[tokio::test]
    async fn who_waits_holds_no_memory() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let mut buffer = ReadBuffer::default();
        near.write_all(&[1; 9000]).await.unwrap();
        while buffer.data.len() < 9000 {
            read(&mut buffer, &mut far).await;
        }
        buffer.data.clear();
        buffer.release();
        let waiting = std::future::poll_fn(|cx| Poll::Ready(buffer.poll_read(cx, &mut far)));
        assert!(waiting.await.is_pending());
        assert_eq!(buffer.data.capacity(), 0);
    }
}
