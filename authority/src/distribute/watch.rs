//! One endpoint's stream: a snapshot, then what changed, one step at a time.

use std::time::Duration;

use fairway_control::authority::{Ack, Response};
use fairway_control::update::{Publisher, Version, Watcher};
use fairway_identity::{Uid, UnixSeconds};
use tokio::time::{Instant, sleep_until, timeout};

use super::hub::Subscription;
use super::view::Gone;
use crate::limits;
use crate::random;
use crate::server::conn::{Closed, Conn};

/// How long a pod that was just attested may be unknown: its first watch can
/// be faster than our watch of pods.
const APPEARANCE: Duration = Duration::from_secs(5);

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The endpoint went, or its stream broke.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The object behind it is gone.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// Its credential is revoked.
    #[error("the credential is revoked")]
    Revoked,
    /// It acknowledged what was not sent.
    #[error("the endpoint acknowledged what was not sent")]
    OutOfStep,
    /// It did not acknowledge in time.
    #[error("the endpoint did not acknowledge within {} s", limits::ACK_WAIT.as_secs())]
    NoAck,
}

/// The credential with which the endpoint watches; `None` for the front.
#[derive(Clone, Debug)]
pub struct ShownCredential {
    /// UID of the object behind it.
    pub uid: Uid,
    /// When it was issued.
    pub issued_at: UnixSeconds,
}

/// Serves a watch until it ends.
pub async fn serve(
    conn: &mut Conn,
    place: &Subscription,
    credential: Option<&ShownCredential>,
    have: Option<Version>,
) -> Ended {
    match run(conn, place, credential, have).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

enum Never {}

async fn run(
    conn: &mut Conn,
    place: &Subscription,
    credential: Option<&ShownCredential>,
    have: Option<Version>,
) -> Result<Never, Ended> {
    appear(place).await?;
    let mut publisher = Publisher::new(u64::from_be_bytes(random::bytes()));
    let mut watcher = Watcher::new(have);
    // The revision that the update in flight brings, and when it was sent.
    let mut in_flight: Option<(u64, Instant)> = None;
    loop {
        if credential.is_some_and(|shown| place.revokes(&shown.uid, shown.issued_at)) {
            return Err(Ended::Revoked);
        }
        let view = place.view()?;
        if let Err(problem) = publisher.set(&view.state) {
            tracing::error!(event = "unpublishable", uid = place.audience().uid(), %problem);
        }
        match publisher.poll(&mut watcher) {
            Some(update) => {
                conn.write(&Response::Update(update)).await?;
                in_flight = Some((view.revision, Instant::now()));
            }
            // Nothing to say: it already enforces what it has to.
            None if in_flight.is_none() => place.acknowledge(view.revision),
            None => {}
        }
        let late = in_flight.map(|(_, sent)| sent + limits::ACK_WAIT);
        tokio::select! {
            () = place.changed() => {}
            ack = conn.read::<Ack>() => {
                let ack = ack?;
                watcher.acknowledge(&ack).map_err(|_| Ended::OutOfStep)?;
                if let Some(problem) = &ack.problem {
                    tracing::warn!(event = "update-problem", uid = place.audience().uid(), %problem);
                }
                if let Some((revision, _)) = in_flight.take() {
                    place.acknowledge(revision);
                }
            }
            () = until(late) => return Err(Ended::NoAck),
        }
    }
}

/// Waits a little for an object that is not known yet.
async fn appear(place: &Subscription) -> Result<(), Gone> {
    let there = async {
        loop {
            match place.view() {
                Err(Gone::Pod | Gone::Device) => place.changed().await,
                Err(gone @ Gone::DeviceState) => return Err(gone),
                Ok(_) => return Ok(()),
            }
        }
    };
    match timeout(APPEARANCE, there).await {
        Ok(result) => result,
        Err(_) => place.view().map(drop),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
