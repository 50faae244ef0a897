//! An authority with throwaway keys, for running the real relay, sidecar and
//! device as processes on one machine.
//!
//! It speaks the authority's protocol on a Unix socket, behind the real front.
//! It believes every token: the text of a token *is* the identity,
//! `NAMESPACE/SERVICEACCOUNT`. Never part of an installation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use fairway_control::authority::{Ack, Enroll, Issued, Request, Response};
use fairway_control::front::{Preamble, Stream};
use fairway_control::update::{Publisher, State, Watcher};
use fairway_control::{FrameReader, Message, Reason, frame, reason};
use fairway_identity::proof::{Purpose, Statement};
use fairway_identity::{
    CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label, RelayAddress, RootHash, Serial,
    SignedTime, Signer as _, SpiffeId, Subject, Ticket, TrustDomain, TrustSet, Uid, UnixSeconds,
    VerifiedTrustSet, issue,
};
use fairway_session::{Local, StaticSecret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// The trust domain of everything that runs here.
pub const TRUST_DOMAIN: &str = "bench.test";
/// Where the relay and the authority are "installed".
pub const SYSTEM_NAMESPACE: &str = "fairway-system";

const LIFETIME: u64 = 4 * 3_600;

/// A running authority. It ends with the runtime.
#[derive(Clone)]
pub struct TestAuthority {
    inner: Arc<Inner>,
}

struct Inner {
    root: Ed25519Key,
    issuer: Ed25519Key,
    trust_domain: TrustDomain,
    trust_set: Vec<u8>,
    /// What each identity is told, by the path of its SPIFFE ID.
    states: Mutex<BTreeMap<String, State>>,
    /// Attributes of devices and Services of workloads, by the same.
    subjects: Mutex<BTreeMap<String, Claims>>,
    changed: watch::Sender<()>,
}

/// What a credential says beside the name.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// A device's attributes.
    pub attributes: BTreeMap<String, String>,
    /// The Services that a workload's pod backs.
    pub services: Vec<Label>,
}

impl TestAuthority {
    /// Makes keys and serves on `socket`.
    ///
    /// # Errors
    /// No randomness, or the socket cannot be made.
    pub fn start(socket: &Path) -> Result<Self> {
        let trust_domain = TrustDomain::new(TRUST_DOMAIN)?;
        let (root, issuer) = (key()?, key()?);
        let system = |account: &str| -> Result<SpiffeId> {
            Ok(format!("spiffe://{TRUST_DOMAIN}/ns/{SYSTEM_NAMESPACE}/sa/{account}").parse()?)
        };
        let set = TrustSet {
            version: 1,
            trust_domain: trust_domain.clone(),
            root: root.verifying_key(),
            issuers: vec![Issuer {
                key: issuer.verifying_key(),
                not_before: now().minus(60),
                expires: now().plus(30 * 24 * 3_600),
            }],
            authority: system("fairway-authority")?,
            relay: system("fairway-relay")?,
            revocation_floor: UnixSeconds(0),
        };
        let trust_set = set.sign(&root)?;
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let inner = Arc::new(Inner {
            root,
            issuer,
            trust_domain,
            trust_set,
            states: Mutex::default(),
            subjects: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        tokio::spawn(serve(listener, Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// What processes pin.
    pub fn root_hash(&self) -> RootHash {
        RootHash::of(&self.inner.root.verifying_key())
    }

    /// Sets what `subject` (`ns/NS/sa/NAME` or `ns/NS/device/NAME`) is told;
    /// watchers hear of it at once.
    pub fn tell(&self, subject: &str, state: State) {
        lock(&self.inner.states).insert(subject.to_owned(), state);
        self.inner.changed.send_replace(());
    }

    /// Sets what credentials of `subject` say from the next one on.
    pub fn certify(&self, subject: &str, claims: Claims) {
        lock(&self.inner.subjects).insert(subject.to_owned(), claims);
    }

    /// Who `subject` is, with a fresh key and a credential for it, as if it had
    /// enrolled.
    ///
    /// # Errors
    /// No randomness, or the subject is malformed.
    pub fn local(&self, subject: &str, instance: [u8; 16]) -> Result<Local> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let (secret, pin) = (StaticSecret::from_bytes(seed), self.root_hash());
        let issued = self.inner.issue(subject, secret.public())?;
        let trust = VerifiedTrustSet::verify(&issued.trust_set, &pin, 0)?;
        Ok(Local::anonymous(secret, pin, instance)
            .with_credential(issued.lean, issued.full)
            .with_trust(trust))
    }

    /// A ticket for a device, to be used with these relays. Every ticket is honoured.
    ///
    /// # Errors
    /// No randomness, or a name is malformed.
    pub fn ticket(
        &self,
        namespace: &str,
        device: &str,
        relays: Vec<RelayAddress>,
    ) -> Result<Ticket> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let (namespace, device) = (Label::new(namespace)?, Label::new(device)?);
        Ok(Ticket::new(
            relays,
            self.inner.trust_domain.clone(),
            self.root_hash(),
            namespace,
            device,
            seed,
        )?)
    }
}

/// `ns/NS/sa/NAME`
pub fn workload(namespace: &str, account: &str) -> String {
    format!("ns/{namespace}/sa/{account}")
}

/// `ns/NS/device/NAME`
pub fn device(namespace: &str, name: &str) -> String {
    format!("ns/{namespace}/device/{name}")
}

async fn serve(listener: UnixListener, inner: Arc<Inner>) {
    while let Ok((socket, _)) = listener.accept().await {
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let mut connection = Connection {
                socket,
                reader: FrameReader::new(),
                inner,
            };
            if let Err(error) = connection.run().await {
                eprintln!("test authority: {error:#}");
            }
        });
    }
}

struct Connection {
    socket: UnixStream,
    reader: FrameReader,
    inner: Arc<Inner>,
}

impl Connection {
    async fn run(&mut self) -> Result<()> {
        let Some(preamble) = self.read::<Preamble>().await? else {
            return Ok(());
        };
        let Some(request) = self.read::<Request>().await? else {
            return Ok(());
        };
        let response = match (request, preamble) {
            (Request::Watch { have }, preamble) => return self.watch(have, &preamble).await,
            (request, preamble) => self.answer(request, preamble)?,
        };
        self.write(&response).await
    }

    fn answer(&self, request: Request, preamble: Preamble) -> Result<Response> {
        match (request, preamble) {
            (Request::GetTime { nonce }, _) => Ok(Response::Time {
                signed: SignedTime::sign(&self.inner.issuer, &nonce, now())?,
                trust_set: self.inner.trust_set.clone(),
            }),
            (Request::FrontCredential { handshake_key }, Preamble::Local) => self.issue(
                &workload(SYSTEM_NAMESPACE, "fairway-authority"),
                handshake_key,
            ),
            (Request::AttestWorkload(attest), Preamble::Stream(Stream { proven_key, .. })) => {
                let (namespace, account) = attest
                    .token
                    .trim()
                    .split_once('/')
                    .context("a token is NAMESPACE/SERVICEACCOUNT")?;
                self.issue(&workload(namespace, account), proven_key)
            }
            (Request::Enroll(enroll), Preamble::Stream(stream)) => {
                self.check_proofs(&enroll, &stream)?;
                self.issue(
                    &device(enroll.namespace.as_str(), enroll.device.as_str()),
                    stream.proven_key,
                )
            }
            (Request::RenewDevice(renew), Preamble::Stream(Stream { proven_key, .. })) => self
                .issue(
                    &device(renew.namespace.as_str(), renew.device.as_str()),
                    proven_key,
                ),
            (Request::FrontCredential { .. } | Request::Watch { .. }, _) | (_, Preamble::Local) => {
                Ok(Response::Error {
                    reason: Reason::new(reason::FORBIDDEN, "not on this connection"),
                    retry_after_seconds: None,
                })
            }
        }
    }

    /// The real authority would also ask whether there is such a ticket.
    fn check_proofs(&self, enroll: &Enroll, stream: &Stream) -> Result<()> {
        let statement = Statement {
            trust_domain: &self.inner.trust_domain,
            namespace: &enroll.namespace,
            device: &enroll.device,
            device_key: &enroll.device_key,
            handshake_hash: &stream.handshake_hash,
            handshake_key: &stream.proven_key,
        };
        for (purpose, key, signature) in [
            (
                Purpose::EnrollTicket,
                &enroll.ticket_key,
                &enroll.ticket_signature,
            ),
            (
                Purpose::EnrollDevice,
                &enroll.device_key,
                &enroll.device_signature,
            ),
        ] {
            statement.verify(purpose, key, signature)?;
        }
        Ok(())
    }

    fn issue(&self, subject: &str, handshake_key: [u8; 32]) -> Result<Response> {
        Ok(Response::Issued(self.inner.issue(subject, handshake_key)?))
    }

    async fn watch(
        &mut self,
        have: Option<fairway_control::update::Version>,
        preamble: &Preamble,
    ) -> Result<()> {
        let subject = match preamble {
            Preamble::Local => workload(SYSTEM_NAMESPACE, "fairway-authority"),
            Preamble::Stream(Stream {
                peer: Some(peer), ..
            }) => {
                let id = peer.id.to_string();
                id.strip_prefix(&format!("spiffe://{TRUST_DOMAIN}/"))
                    .context("a foreign trust domain")?
                    .to_owned()
            }
            Preamble::Stream(Stream { peer: None, .. }) => bail!("watch without a credential"),
        };
        let mut id = [0; 8];
        getrandom::fill(&mut id)?;
        let mut publisher = Publisher::new(u64::from_le_bytes(id));
        let mut watcher = Watcher::new(have);
        let mut changed = self.inner.changed.subscribe();
        loop {
            let mut state = lock(&self.inner.states)
                .get(&subject)
                .cloned()
                .unwrap_or_default();
            state.trust_set.clone_from(&self.inner.trust_set);
            publisher.set(&state)?;
            while let Some(update) = publisher.poll(&mut watcher) {
                self.write(&Response::Update(update)).await?;
                let Some(ack) = self.read::<Ack>().await? else {
                    return Ok(());
                };
                watcher.acknowledge(&ack)?;
            }
            changed.changed().await?;
        }
    }

    async fn read<M: Message>(&mut self) -> Result<Option<M>> {
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Ok(Some(message));
            }
            let mut buffer = [0; 4_096];
            match self.socket.read(&mut buffer).await? {
                0 => return Ok(None),
                n => self.reader.push(&buffer[..n]),
            }
        }
    }

    async fn write<M: Message>(&mut self, message: &M) -> Result<()> {
        Ok(self.socket.write_all(&frame(message)?).await?)
    }
}

impl Inner {
    fn issue(&self, subject: &str, handshake_key: [u8; 32]) -> Result<Issued> {
        let mut serial = [0; 16];
        getrandom::fill(&mut serial)?;
        let id: SpiffeId = format!("spiffe://{}/{subject}", self.trust_domain).parse()?;
        let claims = lock(&self.subjects)
            .get(subject)
            .cloned()
            .unwrap_or_default();
        let is_device = matches!(id.subject, Subject::Device { .. });
        let (issued_at, expires) = (now(), now().plus(LIFETIME));
        let claims = CredentialClaims {
            issuer: IssuerId::of(&self.issuer.verifying_key()),
            id,
            handshake_key,
            not_before: issued_at.minus(60),
            expires,
            issued_at,
            serial: Serial(serial),
            uid: uid_of(subject)?,
            attributes: if is_device {
                claims.attributes
            } else {
                BTreeMap::new()
            },
            services: claims.services,
            pod: None,
        };
        Ok(Issued {
            lean: issue(&claims, Form::Lean, &self.issuer)?,
            full: issue(&claims, Form::Full, &self.issuer)?,
            trust_set: self.trust_set.clone(),
            renew_at: issued_at.plus(LIFETIME / 2),
            expires,
        })
    }
}

fn key() -> Result<Ed25519Key> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(Ed25519Key::from_seed(seed))
}

fn now() -> UnixSeconds {
    UnixSeconds(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs()),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A UID that follows from the name: the end of it, where names differ.
///
/// # Errors
/// The subject has characters that a UID must not have.
pub fn uid_of(subject: &str) -> Result<Uid> {
    let text = subject.replace('/', "-");
    let start = text.len().saturating_sub(36);
    Ok(Uid::new(&text[start..])?)
}
