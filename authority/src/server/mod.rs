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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::conn::Conn;
    use crate::testing::fixture::Fixture;
    use crate::testing::{self, START, credential, device};
    use fairway_control::authority::{Ack, Request, Response};
    use fairway_control::front::{Peer, Preamble, Stream};
    use fairway_control::update::Subscriber;
    use fairway_control::{DecodeError, Message};
    use fairway_crds::DeviceState;
    use fairway_identity::{Clock, Form, SignedTime, Uid};
    use tokio::io::AsyncWriteExt as _;

    struct Socket {
        fixture: Fixture,
        api: testing::mock::Server,
        path: std::path::PathBuf,
        drain: Drain,
        _dir: tempfile::TempDir,
    }

    fn socket() -> Socket {
        let (fixture, api) = Fixture::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority.sock");
        let drain = Drain::new();
        tokio::spawn(serve(
            listen(&path).unwrap(),
            fixture.authority.clone(),
            drain.clone(),
        ));
        Socket {
            fixture,
            api,
            path,
            drain,
            _dir: dir,
        }
    }

    impl Socket {
        async fn conn(&self) -> Conn {
            Conn::new(UnixStream::connect(&self.path).await.unwrap())
        }

        async fn ask(&self, preamble: &Preamble, request: &Request) -> Response {
            let mut conn = self.conn().await;
            conn.write(preamble).await.unwrap();
            conn.write(request).await.unwrap();
            conn.read().await.unwrap()
        }
    }

    fn anonymous() -> Preamble {
        Preamble::Stream(Stream {
            handshake_hash: [1; 32],
            proven_key: [9; 32],
            peer: None,
        })
    }

    fn pump() -> Preamble {
        let peer = Peer {
            id: "spiffe://fairway.local/ns/factory/device/pump-7"
                .parse()
                .unwrap(),
            uid: Uid::new(&device("factory", "pump-7").uid).unwrap(),
            serial: fairway_identity::Serial([0; 16]),
            issued_at: START.minus(50),
            expires: START.plus(1000),
        };
        Preamble::Stream(Stream {
            handshake_hash: [1; 32],
            proven_key: [9; 32],
            peer: Some(peer),
        })
    }

    fn reason(response: Response) -> String {
        match response {
            Response::Error { reason, .. } => reason.word().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn time_is_signed_for_anybody() {
        let socket = socket();
        let nonce = [7; 16];
        let Response::Time { signed, trust_set } =
            socket.ask(&anonymous(), &Request::GetTime { nonce }).await
        else {
            panic!("no time");
        };
        let ring = socket.fixture.authority.ring().await.unwrap();
        assert_eq!(trust_set, ring.trust().bytes());
        assert_eq!(
            SignedTime::verify(&signed, &nonce, ring.trust()).unwrap(),
            START
        );
        socket.api.done().await;
    }

    #[tokio::test]
    async fn only_the_front_gets_the_fronts_credential() {
        let mut socket = socket();
        let request = Request::FrontCredential {
            handshake_key: [9; 32],
        };
        assert_eq!(
            reason(socket.ask(&anonymous(), &request).await),
            "forbidden"
        );
        socket.api = socket.api.expect(|call| {
            assert_eq!(call.body["data"].as_object().unwrap().len(), 1);
            testing::mock::Answer::ok(serde_json::json!({"metadata": {}}))
        });
        let Response::Issued(issued) = socket.ask(&Preamble::Local, &request).await else {
            panic!("not issued")
        };
        let trust = socket
            .fixture
            .authority
            .ring()
            .await
            .unwrap()
            .trust()
            .clone();
        let peer = trust
            .verify_credential(&issued.lean, Form::Lean, &[9; 32], Clock::Floor(START))
            .unwrap();
        assert!(peer.answers_to(&"authority.fairway.internal".parse().unwrap(), &trust));
        socket.api.done().await;
    }

    #[tokio::test]
    async fn a_watch_tells_everything_then_what_changed_and_ends_with_the_device() {
        let socket = socket();
        let hub = &socket.fixture.hub;
        let mut facts = device("factory", "pump-7");
        facts.credential = Some(credential(START.0 - 50, START.0 + 1000));
        hub.update(|index, _| index.apply_device(facts.clone()));
        let mut conn = socket.conn().await;
        let mut subscriber = Subscriber::new();
        conn.write(&pump()).await.unwrap();
        conn.write(&subscriber.request()).await.unwrap();
        async fn step(conn: &mut Conn, subscriber: &mut Subscriber) -> bool {
            let Response::Update(update) = conn.read().await.unwrap() else {
                panic!("no update")
            };
            let applied = subscriber.apply(&update).unwrap();
            conn.write::<Ack>(&applied.ack).await.unwrap();
            update.is_snapshot()
        }
        assert!(step(&mut conn, &mut subscriber).await, "first a snapshot");
        assert!(subscriber.state().ready);
        assert!(subscriber.state().policies.policies.is_empty());

        let policy = testing::device_policy("factory", "p", "pump-7", &["monitoring"]);
        hub.update(|index, _| index.apply_policy(("factory".into(), "p".into()), Some(policy)));
        assert!(!step(&mut conn, &mut subscriber).await, "then a delta");
        assert_eq!(subscriber.state().policies.policies.len(), 1);

        facts.state = DeviceState::Revoked;
        hub.update(|index, _| index.apply_device(facts));
        assert_eq!(reason(conn.read().await.unwrap()), "revoked");
        assert_eq!(hub.watches()["device"], 0);
        socket.api.done().await;
    }

    #[tokio::test]
    async fn watches_need_a_credential_that_is_alive() {
        let socket = socket();
        let watch = Request::Watch { have: None };
        assert_eq!(reason(socket.ask(&anonymous(), &watch).await), "forbidden");
        let facts = device("factory", "pump-7");
        socket
            .fixture
            .hub
            .update(|index, _| index.apply_device(facts.clone()));
        let mut record = crate::revoke::Record::default();
        record.insert(crate::revoke::Entry {
            uid: Uid::new(&facts.uid).unwrap(),
            kind: crate::revoke::Kind::Device,
            namespace: facts.namespace,
            name: facts.name,
            cause: crate::revoke::Cause::Changed,
            issued_before: START,
            effective: START,
            keep_until: START.plus(100),
        });
        socket
            .fixture
            .hub
            .update(|index, now| index.set_record(record, now));
        assert_eq!(reason(socket.ask(&pump(), &watch).await), "revoked");
        socket.api.done().await;
    }

    #[tokio::test]
    async fn garbage_is_answered_and_hurts_nobody() {
        let socket = socket();
        let stream = UnixStream::connect(&socket.path).await.unwrap();
        let (read, mut write) = stream.into_split();
        write.write_all(&[0xff; 64]).await.unwrap();
        let mut conn = Conn::new(read.reunite(write).unwrap());
        assert_eq!(reason(conn.read().await.unwrap()), "protocol-violation");
        // An answer that is read as a request is no request either.
        let bytes = Response::Error {
            reason: fairway_control::Reason::new("x", ""),
            retry_after_seconds: None,
        };
        assert!(matches!(
            Request::from_bytes(&bytes.to_bytes().unwrap()),
            Err(DecodeError::Malformed(_))
        ));
        socket
            .ask(&anonymous(), &Request::GetTime { nonce: [0; 16] })
            .await;
        socket.api.done().await;
    }

    #[tokio::test]
    async fn a_drain_ends_watches_in_good_order() {
        let socket = socket();
        let mut conn = socket.conn().await;
        conn.write(&Preamble::Local).await.unwrap();
        conn.write(&Request::Watch { have: None }).await.unwrap();
        let Response::Update(_) = conn.read().await.unwrap() else {
            panic!("no update")
        };
        socket.drain.begin();
        assert!(matches!(
            conn.read::<Response>().await,
            Err(conn::Closed::Ended)
        ));
        drop(conn);
        let finished = socket.drain.finish(std::time::Duration::from_secs(5)).await;
        assert_eq!(finished, fairway_daemon::Finished::Clean);
        socket.api.done().await;
    }

    #[test]
    fn the_socket_is_for_owner_and_group_and_replaces_an_old_one() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("authority.sock");
            drop(listen(&path).unwrap());
            let _again = listen(&path).unwrap();
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o660
            );
            let error = listen(&dir.path().join("missing/authority.sock")).unwrap_err();
            assert!(error.to_string().contains("missing/authority.sock"));
        });
    }
}
