//! Sends one HTTP request over one connection, in the version it came in.

use std::borrow::Cow;
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::uri::{PathAndQuery, Uri};
use ::http::{Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::{REASON, remove_hop_by_hop};
use super::{HEAD_SIZE, HEAD_TIMEOUT};

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// Sends `request` over `io`, as origin-form with a `Host`, and returns the answer.
/// The connection lives as long as the bodies do.
pub(crate) async fn send<IO>(
    io: IO,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    remove_hop_by_hop(request.headers_mut());
    let response = if request.version() == Version::HTTP_2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(drive(connection));
        sender.send_request(request).await?
    } else {
        to_origin_form(&mut request);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_SIZE)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(drive(connection));
        sender.send_request(request).await?
    };
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, body.boxed()))
}

/// The parser of every connection that speaks HTTP to a portal: HTTP/1.1 and h2c.
pub(crate) fn server() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_SIZE as u32)
        .max_concurrent_streams(256)
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

/// An answer that Fairway itself gives, with its machine-readable reason.
pub(crate) fn refusal(status: StatusCode, reason: &str, text: &str) -> Response<Body> {
    let body = Bytes::from(format!("{reason}: {text}\n"));
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        REASON,
        HeaderValue::from_str(reason).unwrap_or(HeaderValue::from_static("unknown")),
    );
    response
}

/// An empty 200.
pub(crate) fn connected() -> Response<Body> {
    Response::new(
        Full::new(Bytes::new())
            .map_err(|never| match never {})
            .boxed(),
    )
}

/// The text of an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> Cow<'static, str> {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.into()
}

async fn drive(connection: impl Future<Output = Result<(), hyper::Error>>) {
    // The request's own result carries the error; this is for the trace of it.
    if let Err(error) = connection.await {
        tracing::debug!(event = "http", error = %chain(&error), "connection ended");
    }
}

/// RFC 9112 section 3.2.1: path and query on the line, the authority in `Host`.
fn to_origin_form(request: &mut Request<Incoming>) {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
}
