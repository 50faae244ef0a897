//! What a sidecar says of itself, asked for through a port forwarded to the
//! loopback of its pod.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::limits;

/// Port of `/debug/state`, on loopback only.
const DEBUG_PORT: u16 = 7491;

/// The parts of a sidecar's state that people ask for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct SidecarState {
    pub(super) identity: Option<String>,
    pub(super) credential: Option<Credential>,
    pub(super) credential_error: Option<String>,
    #[serde(default)]
    pub(super) watching: bool,
    #[serde(default)]
    pub(super) links: Vec<Link>,
    pub(super) link_error: Option<String>,
    #[serde(default)]
    pub(super) sessions: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) renew_at: i64,
    pub(super) expires: i64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) remote: String,
    pub(super) state: String,
}

/// Why a sidecar's state is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum SidecarError {
    #[error("you have no permission for pods/portforward")]
    Forbidden,
    #[error("no port can be forwarded to the pod")]
    Forward,
    #[error("the sidecar did not answer in {} s", limits::SIDECAR_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the sidecar's answer cannot be read")]
    Answer,
}

/// Asks a pod's sidecar.
pub(super) async fn ask(pods: &Api<Pod>, name: &str) -> Result<SidecarState, SidecarError> {
    tokio::time::timeout(limits::SIDECAR_TIMEOUT, forward(pods, name))
        .await
        .map_err(|_| SidecarError::TimedOut)?
}

async fn forward(pods: &Api<Pod>, name: &str) -> Result<SidecarState, SidecarError> {
    let forwarded = pods.portforward(name, &[DEBUG_PORT]).await;
    let mut forwarded = forwarded.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => SidecarError::Forbidden,
        kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(
            code,
        )) if code.as_u16() == 403 => SidecarError::Forbidden,
        _ => SidecarError::Forward,
    })?;
    let mut stream = forwarded
        .take_stream(DEBUG_PORT)
        .ok_or(SidecarError::Forward)?;
    let request = b"GET /debug/state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request)
        .await
        .map_err(|_| SidecarError::Forward)?;
    let state = read_answer(&mut stream).await;
    forwarded.abort();
    state
}

/// Reads an HTTP answer until its body is whole.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<SidecarState, SidecarError> {
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let n = stream
            .read(&mut chunk)
            .await
            .map_err(|_| SidecarError::Answer)?;
        answer.extend_from_slice(&chunk[..n]);
        if answer.len() > limits::STATE_BYTES {
            return Err(SidecarError::Answer);
        }
        if let Some(body) = whole_body(&answer, n == 0)? {
            return serde_json::from_slice(body).map_err(|_| SidecarError::Answer);
        }
    }
}

/// The body, once all of it is there.
fn whole_body(answer: &[u8], ended: bool) -> Result<Option<&[u8]>, SidecarError> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        return if ended {
            Err(SidecarError::Answer)
        } else {
            Ok(None)
        };
    };
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| SidecarError::Answer)?;
    if !head.starts_with("HTTP/1.1 200") && !head.starts_with("HTTP/1.0 200") {
        return Err(SidecarError::Answer);
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let body = &answer[end + 4..];
    match length {
        Some(length) if body.len() >= length => Ok(Some(&body[..length])),
        Some(_) if ended => Err(SidecarError::Answer),
        None if ended => Ok(Some(body)),
        Some(_) | None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = r#"{"identity":"spiffe://td/ns/a/sa/b","credential":{"renew_at":1,"expires":2},"credential_error":null,"links":[{"remote":"r:1","state":"up","registered":[]}],"sessions":[],"other":1}"#;

    async fn read(answer: &str) -> Result<SidecarState, SidecarError> {
        read_answer(&mut answer.as_bytes()).await
    }

    #[tokio::test]
    async fn states_are_read() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: ";
        let exact = format!("{head}{}\r\n\r\n{STATE}", STATE.len());
        let state = read(&exact).await.unwrap();
        assert_eq!(state.links[0].state, "up");
        assert_eq!(state.credential.unwrap().expires, 2);
        assert!(
            read(&format!("HTTP/1.1 200 OK\r\n\r\n{STATE}"))
                .await
                .is_ok(),
            "until the end"
        );
        assert!(read(&format!("{exact}more")).await.is_ok());
        for len in 0..exact.len() {
            assert!(read(&exact[..len]).await.is_err(), "cut to {len}");
        }
        for bad in [
            "",
            "nonsense",
            "HTTP/1.1 404 Not Found\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{",
        ] {
            assert!(read(bad).await.is_err(), "{bad}");
        }
        let endless = "x".repeat(2 * limits::STATE_BYTES);
        assert!(read(&endless).await.is_err());
    }
}
