//! Hosts that are none of Fairway's, for pods that opted in to have
//! `http_proxy` set: programs that obey it send everything here, so what is
//! not Fairway's goes on as it would have gone without the proxy.

use std::time::Duration;

use ::http::uri::Authority;
use ::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::forward::{self, Answer, Body, Onward, chain, refusal};

/// How long another host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One request, answered by the host itself.
pub(super) async fn forward(host: &Authority, request: Request<Incoming>) -> Response<Body> {
    let socket = match connect(host).await {
        Ok(socket) => socket,
        Err(response) => return *response,
    };
    match Onward::new(request).send(socket).await {
        Ok(Answer { response, switched }) => {
            if let Some(switched) = switched {
                // Either side may break off; the other then sees the end.
                tokio::spawn(switched.join());
            }
            response.map(|body| body.boxed())
        }
        Err(error) => refusal(StatusCode::BAD_GATEWAY, "no-answer", &chain(&error)),
    }
}

/// A tunnel to the host. It ends with either side, or with the process.
pub(super) async fn tunnel(host: &Authority, request: Request<Incoming>) -> Response<Body> {
    let mut socket = match connect(host).await {
        Ok(socket) => socket,
        Err(response) => return *response,
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        // Either side may break off; the other then sees the end.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut socket).await;
    });
    forward::connected()
}

async fn connect(host: &Authority) -> Result<TcpStream, Box<Response<Body>>> {
    let port = host.port_u16().unwrap_or(80);
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let failed = |status, text: &str| Box::new(refusal(status, "connect-refused", text));
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((name, port))).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(failed(StatusCode::BAD_GATEWAY, &format!("{host}: {error}"))),
        Err(_) => Err(failed(
            StatusCode::GATEWAY_TIMEOUT,
            &format!("{host} did not accept in time"),
        )),
    }
}
