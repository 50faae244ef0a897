//! What the authority's process does, as far as an endpoint sees it: answers
//! on a Unix socket, issues, and publishes states that the test sets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use fairway_control::authority::{Ack, Enroll, Issued, Request, Response};
use fairway_control::front::{Preamble, Stream};
use fairway_control::update::{Publisher, State, Watcher};
use fairway_control::{FrameReader, Message, Reason, frame, reason};
use fairway_identity::credential::{CredentialClaims, Form, Serial, Uid, issue};
use fairway_identity::name::AccountName;
use fairway_identity::proof::{Purpose, Statement};
use fairway_identity::trust::{Issuer, IssuerId, TrustSet};
use fairway_identity::{
    Ed25519Key, Label, RelayAddress, RootHash, SignedTime, Signer, SpiffeId, Ticket, TrustDomain,
    UnixSeconds, VerifiedTrustSet, VerifyingKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::label;

/// A running authority; ends with the test's runtime.
pub struct Authority {
    dir: tempfile::TempDir,
    world: Arc<World>,
}

struct World {
    /// Whether nobody is told the time for now.
    is_time_held: watch::Sender<bool>,
    root: Ed25519Key,
    issuer: Ed25519Key,
    trust: Vec<u8>,
    state: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// By SPIFFE ID, in text.
    states: BTreeMap<String, watch::Sender<State>>,
    /// By name of the device.
    devices: BTreeMap<String, VerifyingKey>,
    n_issued: u64,
    n_times: u64,
    n_tokens: u64,
    /// Acknowledged updates, by SPIFFE ID.
    acks: BTreeMap<String, watch::Sender<u64>>,
    lifetime: Option<u64>,
    is_away: bool,
    /// Of whom nothing is certified any more.
    revoked: BTreeSet<String>,
}

impl Authority {
    pub fn start() -> Self {
        let (root, issuer) = (
            Ed25519Key::from_seed([1; 32]),
            Ed25519Key::from_seed([2; 32]),
        );
        let set = TrustSet {
            version: 1,
            trust_domain: domain(),
            root: root.verifying_key(),
            issuers: vec![Issuer {
                key: issuer.verifying_key(),
                not_before: now().minus(1_000),
                expires: now().plus(1_000_000),
            }],
            authority: account("fairway-system", "fairway-authority"),
            relay: account("fairway-system", "fairway-relay"),
            revocation_floor: UnixSeconds(0),
        };
        let trust = set.sign(&root).unwrap();
        let world = Arc::new(World {
            is_time_held: watch::Sender::new(false),
            root,
            issuer,
            trust,
            state: Mutex::default(),
        });
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("authority.sock")).unwrap();
        tokio::spawn({
            let world = world.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(world.clone(), stream));
                }
            }
        });
        Self { dir, world }
    }

    pub fn socket(&self) -> &Path {
        Box::leak(self.dir.path().join("authority.sock").into_boxed_path())
    }

    pub fn trust_domain(&self) -> TrustDomain {
        domain()
    }

    pub fn pin(&self) -> RootHash {
        RootHash::of(&self.world.root.verifying_key())
    }

    /// A token file; what it says (NAMESPACE/ACCOUNT/SERVICES) is believed.
    pub fn token(&self, text: &str) -> PathBuf {
        let mut books = self.world.state.lock().unwrap();
        books.n_tokens += 1;
        let path = self.dir.path().join(format!("token-{}", books.n_tokens));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A device that is enrolled already; the answer is its key.
    pub fn enrolled(&self, device: &str) -> Arc<Ed25519Key> {
        let key = device_key(device);
        let mut books = self.world.state.lock().unwrap();
        books.devices.insert(device.to_owned(), key.verifying_key());
        Arc::new(key)
    }

    pub fn ticket(&self, device: &str, relays: &[RelayAddress]) -> Ticket {
        let (td, root) = (self.trust_domain(), self.pin());
        Ticket::new(
            relays.to_vec(),
            td,
            root,
            label("factory"),
            label(device),
            [9; 32],
        )
        .unwrap()
    }

    /// Publishes a state to the endpoint with this identity.
    pub fn publish(&self, id: &str, change: impl FnOnce(&mut State)) {
        self.world.sender(id).send_modify(change);
    }

    /// How many updates this endpoint has acknowledged.
    pub fn n_acks(&self, id: &str) -> u64 {
        *self.world.acks(id).borrow()
    }

    /// Resolves once this endpoint has acknowledged so many.
    pub async fn acknowledged(&self, id: &str, n: u64) {
        let mut acks = self.world.acks(id).subscribe();
        acks.wait_for(|acks| *acks >= n).await.unwrap();
    }

    pub fn n_issued(&self) -> u64 {
        self.world.state.lock().unwrap().n_issued
    }

    /// How often the time was asked for.
    pub fn n_times(&self) -> u64 {
        self.world.state.lock().unwrap().n_times
    }

    /// Whether whoever asks for the time waits.
    pub fn hold_time(&self, is_held: bool) {
        self.world.is_time_held.send_replace(is_held);
    }

    /// Credentials issued from now on live this long, in seconds.
    pub fn set_lifetime(&self, seconds: u64) {
        self.world.state.lock().unwrap().lifetime = Some(seconds);
    }

    /// Whether requests are refused as if the API server were down.
    pub fn set_away(&self, away: bool) {
        self.world.state.lock().unwrap().is_away = away;
    }

    /// Nothing is certified for this device any more.
    pub fn revoke(&self, device: &str) {
        let mut books = self.world.state.lock().unwrap();
        books.revoked.insert(device.to_owned());
    }

    /// A credential for anybody, by anybody's key.
    pub fn issue(&self, id: SpiffeId, services: &[&str], key: [u8; 32]) -> (Vec<u8>, Vec<u8>) {
        let Issued { lean, full, .. } = self.world.issue(id, services, key);
        (lean, full)
    }

    pub fn trust(&self) -> VerifiedTrustSet {
        VerifiedTrustSet::verify(&self.world.trust, &self.pin(), 0).unwrap()
    }
}

pub fn domain() -> TrustDomain {
    TrustDomain::new("fairway.local").unwrap()
}

pub fn account(namespace: &str, name: &str) -> SpiffeId {
    SpiffeId::workload(domain(), label(namespace), AccountName::new(name).unwrap())
}

pub fn device_key(name: &str) -> Ed25519Key {
    let mut seed = [7; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Ed25519Key::from_seed(seed)
}

fn now() -> UnixSeconds {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    UnixSeconds(since.as_secs())
}

impl World {
    fn sender(&self, id: &str) -> watch::Sender<State> {
        let mut books = self.state.lock().unwrap();
        books.states.entry(id.to_owned()).or_default().clone()
    }

    fn acks(&self, id: &str) -> watch::Sender<u64> {
        let mut books = self.state.lock().unwrap();
        books.acks.entry(id.to_owned()).or_default().clone()
    }

    fn issue(&self, id: SpiffeId, services: &[&str], handshake_key: [u8; 32]) -> Issued {
        let mut books = self.state.lock().unwrap();
        books.n_issued += 1;
        let lifetime = books.lifetime.unwrap_or(3_600);
        let mut serial = [0; 16];
        serial[..8].copy_from_slice(&books.n_issued.to_be_bytes());
        let claims = CredentialClaims {
            issuer: IssuerId::of(&self.issuer.verifying_key()),
            handshake_key,
            not_before: now().minus(60),
            expires: now().plus(lifetime),
            issued_at: now(),
            serial: Serial(serial),
            uid: uid_of(&id),
            attributes: BTreeMap::new(),
            services: services.iter().map(|s| label(s)).collect(),
            pod: None,
            id,
        };
        Issued {
            lean: issue(&claims, Form::Lean, &self.issuer).unwrap(),
            full: issue(&claims, Form::Full, &self.issuer).unwrap(),
            trust_set: self.trust.clone(),
            renew_at: now().plus(lifetime / 2),
            expires: claims.expires,
        }
    }

    fn answer(&self, from: &Preamble, request: Request) -> Response {
        if self.state.lock().unwrap().is_away {
            return Response::Error {
                reason: Reason::new(reason::UNAVAILABLE, "as the test wants it"),
                retry_after_seconds: Some(1),
            };
        }
        match (request, from) {
            (Request::GetTime { nonce }, _) => {
                self.state.lock().unwrap().n_times += 1;
                Response::Time {
                    signed: SignedTime::sign(&self.issuer, &nonce, now()).unwrap(),
                    trust_set: self.trust.clone(),
                }
            }
            (Request::FrontCredential { handshake_key }, Preamble::Local) => {
                let id = account("fairway-system", "fairway-authority");
                Response::Issued(self.issue(id, &[], handshake_key))
            }
            (Request::Enroll(enroll), Preamble::Stream(from)) => self.enroll(&enroll, from),
            (Request::RenewDevice(renew), Preamble::Stream(from)) => {
                let known = self
                    .state
                    .lock()
                    .unwrap()
                    .devices
                    .get(renew.device.as_str())
                    .cloned();
                let books = self.state.lock().unwrap();
                if books.revoked.contains(renew.device.as_str()) {
                    return refuse(reason::REVOKED);
                }
                drop(books);
                if known.as_ref() != Some(&renew.device_key) {
                    return refuse(reason::DEVICE_UNKNOWN);
                }
                let statement = statement(&renew.namespace, &renew.device, &renew.device_key, from);
                if statement
                    .verify(Purpose::RenewDevice, &renew.device_key, &renew.signature)
                    .is_err()
                {
                    return refuse(reason::WRONG_KEY);
                }
                let id = SpiffeId::device(domain(), renew.namespace, renew.device);
                Response::Issued(self.issue(id, &[], from.proven_key))
            }
            (Request::AttestWorkload(attest), Preamble::Stream(from)) => {
                let parts: Vec<&str> = attest.token.split('/').collect();
                let [namespace, name, services] = parts[..] else {
                    return refuse(reason::TOKEN_REFUSED);
                };
                assert_eq!(attest.handshake_key, from.proven_key);
                let services: Vec<&str> = services.split(',').filter(|s| !s.is_empty()).collect();
                Response::Issued(self.issue(account(namespace, name), &services, from.proven_key))
            }
            _ => refuse(reason::FORBIDDEN),
        }
    }

    fn enroll(&self, enroll: &Enroll, from: &Stream) -> Response {
        let statement = statement(&enroll.namespace, &enroll.device, &enroll.device_key, from);
        let by_ticket = statement.verify(
            Purpose::EnrollTicket,
            &enroll.ticket_key,
            &enroll.ticket_signature,
        );
        let by_device = statement.verify(
            Purpose::EnrollDevice,
            &enroll.device_key,
            &enroll.device_signature,
        );
        if by_ticket.is_err() || by_device.is_err() || enroll.handshake_key != from.proven_key {
            return refuse(reason::WRONG_KEY);
        }
        let mut books = self.state.lock().unwrap();
        let known = books
            .devices
            .entry(enroll.device.to_string())
            .or_insert(enroll.device_key);
        if *known != enroll.device_key {
            return refuse(reason::TICKET_USED);
        }
        drop(books);
        let id = SpiffeId::device(domain(), enroll.namespace.clone(), enroll.device.clone());
        Response::Issued(self.issue(id, &[], from.proven_key))
    }
}

/// A UID that follows from the name.
pub fn uid_of(id: &SpiffeId) -> Uid {
    let text: String = id
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    Uid::new(&text[text.len().saturating_sub(30)..]).unwrap()
}

fn statement<'a>(
    namespace: &'a Label,
    device: &'a Label,
    device_key: &'a VerifyingKey,
    from: &'a Stream,
) -> Statement<'a> {
    Statement {
        trust_domain: Box::leak(Box::new(domain())),
        namespace,
        device,
        device_key,
        handshake_hash: &from.handshake_hash,
        handshake_key: &from.proven_key,
    }
}

fn refuse(word: &str) -> Response {
    Response::Error {
        reason: Reason::new(word, "as the test wants it"),
        retry_after_seconds: None,
    }
}

async fn serve(world: Arc<World>, mut stream: UnixStream) {
    let mut reader = FrameReader::new();
    let Some(preamble) = receive::<Preamble>(&mut stream, &mut reader).await else {
        return;
    };
    match receive::<Request>(&mut stream, &mut reader).await {
        Some(Request::Watch { have }) => {
            let id = match &preamble {
                Preamble::Local => "front".to_owned(),
                Preamble::Stream(Stream { peer: None, .. }) => return,
                Preamble::Stream(Stream {
                    peer: Some(peer), ..
                }) => peer.id.to_string(),
            };
            publish(&world, &id, Watcher::new(have), &mut stream, &mut reader).await;
        }
        Some(request) => {
            if let Request::GetTime { .. } = request {
                let mut is_held = world.is_time_held.subscribe();
                is_held.wait_for(|is_held| !is_held).await.unwrap();
            }
            let response = world.answer(&preamble, request);
            let _ = stream.write_all(&frame(&response).unwrap()).await;
        }
        None => {}
    }
}

async fn publish(
    world: &World,
    id: &str,
    mut watcher: Watcher,
    stream: &mut UnixStream,
    reader: &mut FrameReader,
) {
    let mut states = world.sender(id).subscribe();
    let mut publisher = Publisher::new(17);
    loop {
        publisher.set(&states.borrow_and_update()).unwrap();
        if let Some(update) = publisher.poll(&mut watcher) {
            let bytes = frame(&Response::Update(update)).unwrap();
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = states.changed() => changed.unwrap(),
            ack = receive::<Ack>(stream, reader) => match ack {
                Some(ack) => {
                    watcher.acknowledge(&ack).unwrap();
                    world.acks(id).send_modify(|acks| *acks += 1);
                }
                None => return,
            },
        }
    }
}

async fn receive<M: Message>(stream: &mut UnixStream, reader: &mut FrameReader) -> Option<M> {
    loop {
        if let Some(message) = reader.next_message().unwrap() {
            return Some(message);
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => reader.push(&bytes[..n]),
        }
    }
}
