//! Sends one HTTP request on over one connection, in the version it came in.

use std::borrow::Cow;
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::uri::{PathAndQuery, Uri};
use ::http::{HeaderMap, Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::{self, REASON};
use super::{HEAD_SIZE, HEAD_TIMEOUT};
use crate::StreamError;

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// A request on its way to the next hop. What concerned the hop that it came
/// over is gone, but for the wish to speak WebSocket.
pub(crate) struct Onward {
    request: Request<Incoming>,
    upgrade: Option<OnUpgrade>,
}

/// The answer to a request that was sent on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// Both sides have agreed to speak WebSocket, once the response is out.
    pub(crate) switched: Option<Switched>,
}

/// Two connections that stop speaking HTTP.
#[must_use = "dropping it ends both connections"]
pub(crate) struct Switched {
    near: OnUpgrade,
    far: OnUpgrade,
}

/// Why a request got no answer that can be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the answer changes the protocol, which the request did not ask for")]
    UnaskedSwitch,
}

impl Onward {
    pub(crate) fn new(mut request: Request<Incoming>) -> Self {
        let upgrade = http::wants_websocket(&request).then(|| hyper::upgrade::on(&mut request));
        http::remove_hop_by_hop(request.headers_mut());
        Self { request, upgrade }
    }

    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        self.request.headers_mut()
    }

    /// Sends it over `io`, as origin-form with a `Host`, in the version it came
    /// in, and returns the answer, without what concerns this hop. The
    /// connection lives as long as the bodies do.
    pub(crate) async fn send<IO>(self, io: IO) -> Result<Answer, SendError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            mut request,
            upgrade,
        } = self;
        if upgrade.is_some() {
            http::set_websocket(request.headers_mut());
        }
        let mut response = if request.version() == Version::HTTP_2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
                    .await?;
            tokio::spawn(drive(connection));
            sender.send_request(request).await?
        } else {
            to_origin_form(&mut request);
            let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
                .max_buf_size(HEAD_SIZE)
                .handshake(TokioIo::new(io))
                .await?;
            tokio::spawn(drive(connection.with_upgrades()));
            sender.send_request(request).await?
        };
        let switched = match (response.status(), upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(near)) if http::is_websocket(&response) => {
                let far = hyper::upgrade::on(&mut response);
                Some(Switched { near, far })
            }
            (StatusCode::SWITCHING_PROTOCOLS, _) => return Err(SendError::UnaskedSwitch),
            (_, _) => None,
        };
        http::remove_hop_by_hop(response.headers_mut());
        if switched.is_some() {
            http::set_websocket(response.headers_mut());
        }
        Ok(Answer { response, switched })
    }
}

impl Switched {
    /// Copies both ways until both have ended or one breaks.
    pub(crate) async fn join(self) -> std::io::Result<()> {
        let both = tokio::try_join!(self.near, self.far).map_err(std::io::Error::other)?;
        let (mut near, mut far) = (TokioIo::new(both.0), TokioIo::new(both.1));
        tokio::io::copy_bidirectional(&mut near, &mut far)
            .await
            .map(drop)
    }
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

/// What the session said, when it is the cause of `error`.
pub(crate) fn stream_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a StreamError> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            return inner.downcast_ref();
        }
        source = error.source();
    }
    None
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
