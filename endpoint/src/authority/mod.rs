//! The client of the authority: requests, the credential that renews itself,
//! and the watch that brings rules.

mod exchange;
mod renew;
mod watch;

use std::path::Path;
use std::sync::Arc;

use fairway_control::authority as wire;
use fairway_control::authority::{Request, Response};
use fairway_control::frame;
use fairway_control::front::Preamble;
use fairway_identity::proof::{Purpose, Statement};
use fairway_identity::{
    Address, Ed25519Key, Label, RootHash, SignedTime, Signer, Ticket, TrustDomain, UnixSeconds,
    VerifiedTrustSet,
};
use fairway_session::{Code, OpenRequest, Refusal, StaticSecret};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::exchange::ask;
use crate::conn::Conn;
use crate::limits::AUTHORITY_TIMEOUT;
use crate::node::Node;
use crate::random::random_bytes;
use crate::{AuthorityError, OpenError, SavedCredential};

pub(crate) use self::renew::keep_credential;
pub(crate) use self::watch::keep_watching;

/// Asks the authority. Cheap to clone.
///
/// Each issuance runs in an anonymous session of its own whose static key is
/// the key to certify, so the handshake proves its possession.
#[derive(Clone, Debug)]
pub struct AuthorityClient {
    pub(crate) node: Arc<Node>,
}

/// What the authority issued, verified.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The credential and its private key.
    pub credential: SavedCredential,
    /// The trust set that verifies it.
    pub trust: VerifiedTrustSet,
}

/// An anonymous session for one issuance; it ends when dropped.
struct Issuance {
    conn: Arc<Conn>,
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    handshake_hash: [u8; 32],
}

impl AuthorityClient {
    /// Signed time over a fresh nonce. The endpoint's clock is set by it.
    ///
    /// # Errors
    ///
    /// The authority cannot be reached or its answer does not verify.
    pub async fn time(&self) -> Result<UnixSeconds, AuthorityError> {
        let nonce = random_bytes();
        let asked = Instant::now();
        let issuance = self.issuance().await?;
        match issuance.ask(&Request::GetTime { nonce }).await? {
            Response::Time { signed, trust_set } => {
                let trust = self.verify_trust(&trust_set)?;
                let time = SignedTime::verify(&signed, &nonce, &trust)
                    .map_err(|e| AuthorityError::Unverified(e.to_string()))?;
                self.node.learn_trust(trust);
                self.node
                    .learn_time(asked, time)
                    .map_err(|e| AuthorityError::Unverified(e.to_string()))?;
                Ok(time)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Enrols a device: uses up the ticket and binds it to `key`. Asking again
    /// with the same key is the same enrolment. The endpoint does not take the
    /// credential into use by itself.
    ///
    /// # Errors
    ///
    /// The authority refuses with `ticket-unknown`, `ticket-used`,
    /// `ticket-expired`, `wrong-key` and the like.
    pub async fn enroll(
        &self,
        ticket: &Ticket,
        key: &Ed25519Key,
    ) -> Result<Issued, AuthorityError> {
        self.know_time().await?;
        let issuance = self.issuance().await?;
        let device_key = key.verifying_key();
        let statement = Statement {
            trust_domain: ticket.trust_domain(),
            namespace: ticket.namespace(),
            device: ticket.device(),
            device_key: &device_key,
            handshake_hash: &issuance.handshake_hash,
            handshake_key: &issuance.public,
        };
        let sign = |purpose, key| statement.sign(purpose, key).map_err(sign_failed);
        let request = Request::Enroll(wire::Enroll {
            ticket: ticket.resource_name(),
            namespace: ticket.namespace().clone(),
            device: ticket.device().clone(),
            ticket_key: ticket.key().verifying_key(),
            device_key,
            handshake_key: issuance.public,
            ticket_signature: sign(Purpose::EnrollTicket, ticket.key())?,
            device_signature: sign(Purpose::EnrollDevice, key)?,
        });
        let answer = issuance.ask(&request).await?;
        self.issued(answer, issuance.secret.clone())
    }

    /// A device's next credential.
    ///
    /// # Errors
    ///
    /// The authority cannot be reached or refuses.
    pub async fn renew(
        &self,
        namespace: &Label,
        device: &Label,
        key: &(dyn Signer + Send + Sync),
    ) -> Result<Issued, AuthorityError> {
        self.know_time().await?;
        let issuance = self.issuance().await?;
        let device_key = key.verifying_key();
        let statement = Statement {
            trust_domain: &self.node.trust_domain,
            namespace,
            device,
            device_key: &device_key,
            handshake_hash: &issuance.handshake_hash,
            handshake_key: &issuance.public,
        };
        let request = Request::RenewDevice(wire::RenewDevice {
            namespace: namespace.clone(),
            device: device.clone(),
            device_key,
            handshake_key: issuance.public,
            signature: statement
                .sign(Purpose::RenewDevice, key)
                .map_err(sign_failed)?,
        });
        let answer = issuance.ask(&request).await?;
        self.issued(answer, issuance.secret.clone())
    }

    /// A workload's credential. The token file is read now, and its content
    /// sent only after the authority has proven itself.
    ///
    /// # Errors
    ///
    /// The token cannot be read, the authority cannot be reached or refuses.
    pub async fn attest(&self, token: &Path) -> Result<Issued, AuthorityError> {
        let issuance = self.issuance().await?;
        let text = tokio::fs::read_to_string(token).await;
        let token = text.map_err(|source| AuthorityError::Local {
            path: token.display().to_string(),
            source,
        })?;
        let request = Request::AttestWorkload(wire::AttestWorkload {
            token: token.trim().to_owned(),
            handshake_key: issuance.public,
        });
        let answer = issuance.ask(&request).await?;
        self.issued(answer, issuance.secret.clone())
    }

    /// The front's own credential, over the authority's Unix socket.
    ///
    /// # Errors
    ///
    /// The socket does not answer.
    pub async fn front_credential(&self, socket: &Path) -> Result<Issued, AuthorityError> {
        let (secret, public) = new_key();
        let answer = ask_locally(
            socket,
            &Request::FrontCredential {
                handshake_key: public,
            },
        )
        .await?;
        self.issued(answer, secret)
    }

    /// Asks for the time if the clock is not known.
    async fn know_time(&self) -> Result<(), AuthorityError> {
        if !self.node.clock.is_set() {
            self.time().await?;
        }
        Ok(())
    }

    /// A session whose static key is a new one, to be certified.
    async fn issuance(&self) -> Result<Issuance, AuthorityError> {
        let (secret, public) = new_key();
        let local = self.node.anonymous(StaticSecret::from_bytes(*secret));
        let generation = self.node.identity.borrow().generation;
        let dialling = self.node.dial_as(&Address::Authority, local, generation);
        let told = |error| {
            self.node
                .no_link()
                .map_or(error, AuthorityError::Unreachable)
        };
        let conn = bounded(dialling).await.map_err(told)??;
        let gone = || OpenError::SessionClosed(crate::conn::lost("the session ended"));
        let peer = conn.peer().ok_or_else(gone)?;
        Ok(Issuance {
            handshake_hash: *peer.handshake_hash(),
            conn,
            secret,
            public,
        })
    }

    /// Checks what was issued: it must be ours, under a trust set of our root.
    fn issued(
        &self,
        answer: Response,
        secret: Zeroizing<[u8; 32]>,
    ) -> Result<Issued, AuthorityError> {
        let issued = match answer {
            Response::Issued(issued) => issued,
            other => return Err(unexpected(&other)),
        };
        let trust = self.verify_trust(&issued.trust_set)?;
        let public = StaticSecret::from_bytes(*secret).public();
        let clock = self.node.clock.clock();
        trust
            .verify_credential(&issued.full, fairway_identity::Form::Full, &public, clock)
            .map_err(|e| AuthorityError::Unverified(e.to_string()))?;
        Ok(Issued {
            credential: SavedCredential {
                secret,
                lean: issued.lean,
                full: issued.full,
                renew_at: issued.renew_at,
                expires: issued.expires,
            },
            trust,
        })
    }

    fn verify_trust(&self, bytes: &[u8]) -> Result<VerifiedTrustSet, AuthorityError> {
        let floor = self.node.trust().map_or(0, |trust| trust.version());
        VerifiedTrustSet::verify(bytes, &self.node.pin, floor)
            .map_err(|e| AuthorityError::Unverified(e.to_string()))
    }
}

impl Issuance {
    async fn ask(&self, request: &Request) -> Result<Response, AuthorityError> {
        let asking = async {
            let mut stream = self
                .conn
                .open(&OpenRequest::control())
                .await
                .map_err(OpenError::from)?;
            stream.accepted().await?;
            ask(&mut stream, request).await
        };
        bounded(asking).await?
    }
}

impl Drop for Issuance {
    fn drop(&mut self) {
        self.conn.close(Refusal::new(Code::DONE, "answered"));
    }
}

/// The trust domain and root hash of the authority behind `socket`: for its
/// front, which has the socket where others have a pin. Waits until the
/// authority answers.
///
/// # Errors
///
/// The answer makes no sense.
pub async fn front_anchor(socket: &Path) -> Result<(TrustDomain, RootHash), AuthorityError> {
    let mut backoff = crate::backoff::Backoff::new(
        crate::limits::BACKOFF_MIN,
        std::time::Duration::from_secs(2),
    );
    loop {
        let request = Request::GetTime {
            nonce: random_bytes(),
        };
        match ask_locally(socket, &request).await {
            Ok(Response::Time { trust_set, .. }) => {
                let root = VerifiedTrustSet::claimed_root(&trust_set)
                    .map_err(|e| AuthorityError::Unverified(e.to_string()))?;
                let trust = VerifiedTrustSet::verify(&trust_set, &root, 0)
                    .map_err(|e| AuthorityError::Unverified(e.to_string()))?;
                return Ok((trust.trust_set().trust_domain.clone(), root));
            }
            // It is starting, or cannot serve for another reason of its own.
            Ok(refused @ Response::Error { .. }) => {
                let error = unexpected(&refused);
                tracing::info!(event = "front-anchor", reason = %error.reason(), "{error}");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => {
                tracing::info!(event = "front-anchor", reason = %error.reason(), "the authority does not answer yet: {error}");
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

/// One request over the authority's Unix socket, by its own front.
async fn ask_locally(socket: &Path, request: &Request) -> Result<Response, AuthorityError> {
    let asking = async {
        let mut stream = connect_locally(socket).await?;
        ask(&mut stream, request).await
    };
    bounded(asking).await?
}

/// A connection of the Unix socket that speaks for the front itself.
async fn connect_locally(socket: &Path) -> Result<UnixStream, AuthorityError> {
    let local = |source| AuthorityError::Local {
        path: socket.display().to_string(),
        source,
    };
    let mut stream = UnixStream::connect(socket).await.map_err(local)?;
    let preamble = frame(&Preamble::Local).expect("the preamble is a constant within the limits");
    stream.write_all(&preamble).await.map_err(local)?;
    Ok(stream)
}

async fn bounded<T>(future: impl Future<Output = T>) -> Result<T, AuthorityError> {
    let timed = tokio::time::timeout(AUTHORITY_TIMEOUT, future).await;
    timed.map_err(|_| {
        AuthorityError::Unreachable(OpenError::Timeout {
            destination: Address::Authority.to_string(),
            seconds: AUTHORITY_TIMEOUT.as_secs(),
            phase: "the authority's answer",
        })
    })
}

/// A fresh X25519 key: private and public half.
fn new_key() -> (Zeroizing<[u8; 32]>, [u8; 32]) {
    let secret = Zeroizing::new(random_bytes());
    let public = StaticSecret::from_bytes(*secret).public();
    (secret, public)
}

fn sign_failed(error: fairway_identity::SignError) -> AuthorityError {
    AuthorityError::Sign(error.to_string())
}

/// An answer that is a refusal, or none to the question.
fn unexpected(response: &Response) -> AuthorityError {
    match response {
        Response::Error {
            reason,
            retry_after_seconds,
        } => AuthorityError::Refused {
            reason: reason.word().to_owned(),
            text: reason.text().to_owned(),
            retry_after: retry_after_seconds.map(|s| std::time::Duration::from_secs(s.into())),
        },
        Response::Time { .. } | Response::Issued(_) | Response::Update(_) => {
            AuthorityError::BadAnswer("it answers another question".to_owned())
        }
    }
}
