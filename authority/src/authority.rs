//! What every request needs: keys, index, API server, clock.

use std::sync::Arc;

use fairway_identity::{Uid, UnixSeconds};
use kube::Client;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use crate::clock::WallClock;
use crate::distribute::Hub;
use crate::events::Events;
use crate::issue::{self, Dice, Made, Subject};
use crate::keys::KeyRing;
use crate::limits;
use crate::metrics::Metrics;
use crate::names::Install;
use crate::random;
use crate::refusal::Refusal;
use crate::revoke::issued::Issued;
use crate::seen::LastSeen;

/// A wait for the second after a revocation, if it is no longer than this.
const SHORT_WAIT_SECONDS: u64 = 5;

/// The authority, as the handlers of requests see it.
pub struct Authority {
    /// Who is who.
    pub install: Install,
    /// Name of the pod that this process runs in.
    pub pod_name: String,
    /// Its UID.
    pub pod_uid: Uid,
    /// The API server.
    pub client: Client,
    /// The time of day.
    pub clock: WallClock,
    /// The signing keys, as far as there are any.
    pub keys: watch::Receiver<Keys>,
    /// The index and its watches.
    pub hub: Arc<Hub>,
    /// Whom credentials were issued to.
    pub issued: Arc<Issued>,
    /// Events to be written.
    pub events: Events,
    /// When devices were last seen.
    pub seen: LastSeen,
    /// Counters.
    pub metrics: Metrics,
    /// Turns for requests that talk to the API server.
    pub turns: Semaphore,
}

/// Whether there are keys to sign with.
#[derive(Clone, Debug)]
pub enum Keys {
    /// They are being read.
    Starting,
    /// There must be none; the log says why, and what to do.
    Refused,
    /// There are.
    Ready(Arc<KeyRing>),
}

impl Authority {
    /// The keys to sign with; at the start this waits for them a little.
    ///
    /// # Errors
    /// There are none (yet).
    pub async fn ring(&self) -> Result<Arc<KeyRing>, Refusal> {
        let mut keys = self.keys.clone();
        let decided = keys.wait_for(|keys| !matches!(keys, Keys::Starting));
        match timeout(limits::TURN_WAIT, decided).await {
            Ok(Ok(keys)) => match &*keys {
                Keys::Ready(ring) => Ok(ring.clone()),
                Keys::Refused | Keys::Starting => Err(Refusal::NoKeys),
            },
            Ok(Err(_)) | Err(_) => Err(Refusal::NotNow {
                what: "the authority is starting",
                retry_after: 2,
            }),
        }
    }

    /// Waits for a turn to talk to the API server.
    ///
    /// # Errors
    /// Too many are waiting.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match timeout(limits::TURN_WAIT, self.turns.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Refusal::NotNow {
                what: "the authority is busy",
                retry_after: 5 + u32::try_from(random::jitter(10)).unwrap_or(0),
            }),
        }
    }

    /// Waits until the index knows the cluster.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn index_ready(&self) -> Result<(), Refusal> {
        timeout(limits::TURN_WAIT, self.hub.ready())
            .await
            .map_err(|_| Refusal::NotNow {
                what: "the authority does not know the cluster yet",
                retry_after: 5,
            })
    }

    /// A time at which a credential of `uid` can be issued that no revocation
    /// so far kills: usually now, or after a second or two.
    ///
    /// # Errors
    /// It would be later than a caller can wait.
    pub async fn time_to_issue(&self, uid: &Uid) -> Result<UnixSeconds, Refusal> {
        loop {
            let now = self.clock.now();
            let dead_before = self
                .hub
                .read(|index| index.record().dead_before(uid).max(index.floor()));
            match dead_before.since(now) {
                0 => return Ok(now),
                wait @ 1..=SHORT_WAIT_SECONDS => {
                    tokio::time::sleep(std::time::Duration::from_secs(wait)).await
                }
                wait => {
                    return Err(Refusal::NotNow {
                        what: "a revocation of this identity lies in the future; the authority's clocks differ",
                        retry_after: u32::try_from(wait).unwrap_or(u32::MAX),
                    });
                }
            }
        }
    }

    /// Signs a credential.
    ///
    /// # Errors
    /// There is no key, or the subject does not make a credential.
    pub async fn sign(
        &self,
        subject: &Subject,
        handshake_key: [u8; 32],
        now: UnixSeconds,
    ) -> Result<Made, Refusal> {
        let ring = self.ring().await?;
        let dice = Dice {
            serial: random::bytes(),
            jitter: random::jitter(u64::MAX),
        };
        Ok(issue::make(&ring, subject, handshake_key, now, dice)?)
    }
}
