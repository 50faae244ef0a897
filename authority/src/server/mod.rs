//! The Unix socket: one connection for each Control stream of a session, one
//! request on each.
//!
//! A connection begins with what the front says about the stream (who the
//! peer is, what the handshake proved), and goes on with the stream's own
//! bytes. The front writes the first part, an endpoint somewhere the second.

pub mod conn;
mod dispatch;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use fairway_daemon::{Drain, DrainGuard};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::authority::Authority;
use crate::limits;

/// Owner and group may use the socket: the front runs as another user of the
/// same group.
const SOCKET_MODE: u32 = 0o660;

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: is its directory there, and writable for this user?")]
pub struct ListenError {
    path: String,
    #[source]
    source: std::io::Error,
}

/// Listens on a Unix socket; one that a former process left is replaced.
///
/// # Errors
/// The path cannot be listened on.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let try_it = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok(listener)
    };
    try_it().map_err(|source| ListenError {
        path: path.display().to_string(),
        source,
    })
}

/// Serves connections until the drain begins.
pub async fn serve(listener: UnixListener, authority: Arc<Authority>, drain: Drain) {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.started() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly; without a pause this would
                // be a busy loop.
                tracing::error!(event = "accept-failed", %error);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            authority.metrics.connection_refused();
            continue;
        };
        let (authority, drain) = (authority.clone(), drain.clone());
        tokio::spawn(async move {
            connection(stream, &authority, &drain, drain.guard()).await;
            drop(place);
        });
    }
}

async fn connection(stream: UnixStream, authority: &Authority, drain: &Drain, guard: DrainGuard) {
    let mut conn = conn::Conn::new(stream);
    tokio::select! {
        served = dispatch::serve(&mut conn, authority, drain) => {
            if let Err(closed) = served {
                tracing::debug!(event = "stream-closed", error = crate::events::chain(&closed));
            }
        }
        () = drain.stopped() => return,
    }
    conn.finish().await;
    drop(guard);
}
