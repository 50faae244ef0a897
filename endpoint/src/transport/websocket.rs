//! A link in the binary messages of a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::LinkIo;
use crate::limits::{WEBSOCKET_BUFFER, WEBSOCKET_MESSAGE_MAX};

/// The path at which a relay takes links.
pub const PATH: &str = "/fairway";

/// A byte stream in the binary messages of a WebSocket: each holds some bytes
/// of the link, cut anywhere.
pub struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// Of the message that was read last.
    unread: Bytes,
    is_unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    fn new(inner: WebSocketStream<S>) -> Self {
        Self {
            inner,
            unread: Bytes::new(),
            is_unflushed: false,
        }
    }

    /// Asks for a WebSocket at `host` over `stream`.
    pub(super) async fn connect(host: &str, stream: S) -> Result<Self, tungstenite::Error> {
        let url = format!("wss://{host}{PATH}");
        let config = Some(config());
        let (inner, _) = tokio_tungstenite::client_async_with_config(url, stream, config).await?;
        Ok(Self::new(inner))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx)).map_err(broken)?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Answers whoever asks for a WebSocket at [`PATH`]; anything else gets a 404.
///
/// # Errors
///
/// No WebSocket was asked for, or not there, or the connection broke.
pub async fn accept_websocket<S>(stream: S) -> io::Result<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    fn only_links(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        if request.uri().path() == PATH {
            return Ok(response);
        }
        let mut refused = ErrorResponse::new(Some("there is nothing here".to_owned()));
        *refused.status_mut() = http::StatusCode::NOT_FOUND;
        Err(refused)
    }
    let accepted =
        tokio_tungstenite::accept_hdr_async_with_config(stream, only_links, Some(config()));
    accepted.await.map(WebSocket::new).map_err(broken)
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(WEBSOCKET_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * WEBSOCKET_MESSAGE_MAX)
        .max_message_size(Some(WEBSOCKET_MESSAGE_MAX))
        .max_frame_size(Some(WEBSOCKET_MESSAGE_MAX))
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                // A ping is answered by the library; the answer is to go out.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    self.is_unflushed = true;
                    if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                        return Poll::Ready(Err(error));
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    let what = "a text message is no part of a link";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                Some(Err(
                    tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed,
                )) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // One message at a time: the next once the socket has taken this one.
        ready!(self.poll_send(cx))?;
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(broken)?;
        let n = bytes.len().min(WEBSOCKET_MESSAGE_MAX);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..n]));
        Pin::new(&mut self.inner)
            .start_send(message)
            .map_err(broken)?;
        self.is_unflushed = true;
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(n)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.inner).poll_close(cx)) {
            Ok(()) | Err(tungstenite::Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> LinkIo for WebSocket<S> {}

impl<S> std::fmt::Debug for WebSocket<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket")
            .field("unread", &self.unread.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn pair(
        pipe: usize,
    ) -> (
        WebSocket<tokio::io::DuplexStream>,
        WebSocket<tokio::io::DuplexStream>,
    ) {
        let (near, far) = duplex(pipe);
        let (near, far) = tokio::join!(
            WebSocket::connect("relay.example.com:7443", near),
            accept_websocket(far)
        );
        (near.unwrap(), far.unwrap())
    }

    #[tokio::test]
    async fn bytes_go_both_ways_in_messages_of_any_size() {
        for pipe in [37, 1 << 20] {
            let (near, far) = pair(pipe).await;
            let sent: Vec<u8> = (0..300_000_u32).map(|n| (n / 3) as u8).collect();
            let (far_read, mut far_write) = tokio::io::split(far);
            let echo = tokio::spawn(async move {
                let mut far_read = far_read.take(300_000);
                tokio::io::copy(&mut far_read, &mut far_write)
                    .await
                    .unwrap();
                (far_read, far_write)
            });
            let (mut read, mut write) = tokio::io::split(near);
            let mut back = vec![0; sent.len()];
            let writing = async { write.write_all(&sent).await.unwrap() };
            let reading = async { read.read_exact(&mut back).await.unwrap() };
            tokio::join!(writing, reading);
            assert!(back == sent);
            drop(echo.await.unwrap());
            assert_eq!(read.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
    }

    #[tokio::test]
    async fn another_path_or_plain_http_is_refused() {
        for request in [
            "GET /other HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "GET /fairway HTTP/1.1\r\nHost: x\r\n\r\n",
            "\u{1}\u{2}\u{3}\r\n\r\n",
        ] {
            let (mut near, far) = duplex(1 << 16);
            near.write_all(request.as_bytes()).await.unwrap();
            assert!(accept_websocket(far).await.is_err(), "{request:?}");
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            let is_other = request.contains("/other");
            assert_eq!(answer.starts_with("HTTP/1.1 404"), is_other, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_binary_message_ends_the_link() {
        let (near, mut far) = pair(1 << 16).await;
        let mut near = near.inner;
        futures::SinkExt::send(&mut near, Message::text("hello"))
            .await
            .unwrap();
        let error = far.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_ends_the_link_before_it_is_read() {
        let (mut near, far) = duplex(1 << 16);
        let accepting = tokio::spawn(async move { accept_websocket(far).await.unwrap() });
        near.write_all(
            b"GET /fairway HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await
        .unwrap();
        let mut far = accepting.await.unwrap();
        // The header of a binary frame of 2^32 bytes.
        near.write_all(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4])
            .await
            .unwrap();
        let error = far.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
