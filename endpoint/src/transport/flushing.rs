//! TLS streams keep back what the socket does not take at once; TCP does not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::LinkIo;

/// Sends what was written without being asked to: at once as far as the socket
/// takes it, and the rest with the next polls for reading.
#[derive(Debug)]
pub struct Flushing<S> {
    inner: S,
    /// Something was written that may not have gone out.
    is_unflushed: bool,
}

impl<S> Flushing<S> {
    /// Nothing has been written to `inner` yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            is_unflushed: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Flushing<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, cx: &mut Context<'_>, n: usize) -> Poll<io::Result<usize>> {
        self.is_unflushed = true;
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(n)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Flushing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.written(cx, n)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.written(cx, n)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> LinkIo for Flushing<S> {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex};

    use super::*;

    /// A stream that keeps back what was written, as a TLS stream may.
    fn pair(
        pipe: usize,
    ) -> (
        Flushing<BufWriter<tokio::io::DuplexStream>>,
        tokio::io::DuplexStream,
    ) {
        let (near, far) = duplex(pipe);
        (Flushing::new(BufWriter::with_capacity(1 << 16, near)), far)
    }

    #[tokio::test]
    async fn what_is_written_goes_out_by_itself() {
        let (mut near, mut far) = pair(100);
        assert_eq!(near.write(b"hello").await.unwrap(), 5);
        let mut bytes = [0; 5];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[tokio::test]
    async fn the_rest_goes_out_while_somebody_reads() {
        let (mut near, mut far) = pair(10);
        assert_eq!(near.write(&[7; 1_000]).await.unwrap(), 1_000);
        let reading = tokio::spawn(async move {
            let mut byte = [0; 1];
            near.read_exact(&mut byte).await.unwrap();
        });
        let mut bytes = vec![0; 1_000];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [7; 1_000]);
        far.write_all(b"!").await.unwrap();
        reading.await.unwrap();
    }
}
