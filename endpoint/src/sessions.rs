//! The session table: one session for each peer and dialled name, made on
//! demand, shared by all calls. It outlives our credential: when there is a new
//! one, the session renews itself with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use fairway_identity::Address;
use fairway_session::OpenRequest;
use tokio::sync::{Semaphore, watch};

use crate::conn::Conn;
use crate::early::Early;
use crate::limits::{DIALS_MAX, OPEN_TIMEOUT};
use crate::node::{Node, lock};
use crate::{OpenError, Stream, StreamError};

/// Sessions that this side dialled, by name.
#[derive(Debug)]
pub(crate) struct SessionTable {
    entries: Mutex<BTreeMap<Address, Entry>>,
    dials: Arc<Semaphore>,
}

/// A session, or the attempt to make one.
#[derive(Clone, Debug)]
struct Entry {
    /// Whether it was made with a credential of ours.
    is_credentialed: bool,
    /// Which one, or which lack of one.
    generation: u64,
    state: watch::Receiver<Dial>,
}

#[derive(Clone, Debug)]
enum Dial {
    Pending,
    Up(Arc<Conn>),
    Failed(OpenError),
}

/// What a call waits for, for the error if it waits in vain.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU8);

impl Phase {
    const NAMES: [&str; 4] = ["credential", "link", "session", "the peer's yes"];
    pub(crate) const CREDENTIAL: u8 = 0;
    pub(crate) const LINK: u8 = 1;
    pub(crate) const SESSION: u8 = 2;
    pub(crate) const ACCEPT: u8 = 3;

    pub(crate) fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for SessionTable {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            dials: Arc::new(Semaphore::new(DIALS_MAX)),
        }
    }
}

impl Node {
    /// Opens a stream to `to`, within [`OPEN_TIMEOUT`].
    pub(crate) async fn open(
        self: &Arc<Self>,
        to: &Address,
        request: OpenRequest,
        early: Option<&mut Early<'_>>,
    ) -> Result<Stream, OpenError> {
        let phase = Phase::default();
        let opening = self.open_unbounded(to, request, early, &phase);
        tokio::select! {
            opened = tokio::time::timeout(OPEN_TIMEOUT, opening) => {
                opened.unwrap_or_else(|_| Err(self.timed_out(to, &phase)))
            }
            () = self.closing.cancelled() => Err(OpenError::Shutdown),
        }
    }

    async fn open_unbounded(
        self: &Arc<Self>,
        to: &Address,
        request: OpenRequest,
        mut early: Option<&mut Early<'_>>,
        phase: &Phase,
    ) -> Result<Stream, OpenError> {
        // A session that was there may end just now; a new one tells.
        let (conn, is_fresh) = self.session(to, phase).await?;
        let opened = try_open(&conn, request.clone(), early.as_deref_mut(), phase).await;
        let is_unheard = early.as_ref().is_none_or(|early| early.n_sent() == 0);
        match opened {
            Err(OpenError::SessionClosed(_)) if !is_fresh && is_unheard => {}
            result => return result,
        }
        self.sessions.forget(to, &conn);
        let (conn, _) = self.session(to, phase).await?;
        try_open(&conn, request, early, phase).await
    }

    /// The session with `to`, and whether it was made for this call.
    pub(crate) async fn session(
        self: &Arc<Self>,
        to: &Address,
        phase: &Phase,
    ) -> Result<(Arc<Conn>, bool), OpenError> {
        if *to != Address::Authority {
            phase.set(Phase::CREDENTIAL);
        }
        let (mut state, is_fresh) = self.entry(to)?;
        phase.set(Phase::SESSION);
        loop {
            match &*state.borrow_and_update() {
                Dial::Pending => {}
                Dial::Up(conn) => return Ok((conn.clone(), is_fresh)),
                Dial::Failed(error) => return Err(error.clone()),
            }
            self.note_phase(phase);
            if state.changed().await.is_err() {
                return Err(OpenError::Shutdown);
            }
        }
    }

    /// The entry for `to`; makes one when there is none that may be used.
    fn entry(self: &Arc<Self>, to: &Address) -> Result<(watch::Receiver<Dial>, bool), OpenError> {
        let (generation, is_credentialed) = {
            let identity = self.identity.borrow();
            (identity.generation, identity.is_credentialed())
        };
        let mut entries = lock(&self.sessions.entries);
        if let Some(entry) = entries.get(to)
            && entry.is_usable(generation, is_credentialed)
        {
            return Ok((entry.state.clone(), false));
        }
        let Ok(permit) = self.sessions.dials.clone().try_acquire_owned() else {
            return Err(OpenError::Overloaded);
        };
        let (sender, state) = watch::channel(Dial::Pending);
        entries.insert(
            to.clone(),
            Entry {
                is_credentialed,
                generation,
                state: state.clone(),
            },
        );
        let (node, to) = (self.clone(), to.clone());
        self.spawn(async move {
            let dialled = tokio::time::timeout(OPEN_TIMEOUT, node.dial(&to)).await;
            drop(permit);
            match dialled {
                Ok(Ok(conn)) => {
                    if is_credentialed {
                        node.keep_credentialed(&conn, generation);
                    }
                    sender.send_replace(Dial::Up(conn.clone()));
                    conn.closed().await;
                    if to == Address::Authority
                        && let Some(refusal) = conn.refused_by_peer()
                    {
                        node.credential_refused(generation, &refusal);
                    }
                    node.sessions.forget(&to, &conn);
                }
                Ok(Err(error)) => node.dial_failed(&to, &sender, error),
                Err(_) => node.dial_failed(&to, &sender, node.timed_out(&to, &Phase::default())),
            }
        });
        Ok((state, true))
    }

    fn dial_failed(&self, to: &Address, sender: &watch::Sender<Dial>, error: OpenError) {
        self.metrics.sessions_failed.inc();
        tracing::info!(event = "dial-failed", destination = %to, reason = %error.reason(), "{error}");
        sender.send_replace(Dial::Failed(error));
        let mut entries = lock(&self.sessions.entries);
        if entries
            .get(to)
            .is_some_and(|e| e.state.same_channel(&sender.subscribe()))
        {
            entries.remove(to);
        }
    }

    /// What is missing at the moment, from below.
    fn note_phase(&self, phase: &Phase) {
        phase.set(if !self.identity.borrow().is_credentialed() {
            Phase::CREDENTIAL
        } else if self.lacks_link() {
            Phase::LINK
        } else {
            Phase::SESSION
        });
    }

    fn lacks_link(&self) -> bool {
        self.authority.is_none() && self.links.borrow().is_empty()
    }

    /// Why there is no link, if there is none.
    pub(crate) fn no_link(&self) -> Option<OpenError> {
        self.lacks_link().then(|| OpenError::NoLink {
            last_error: last(&lock(&self.progress).link_error),
        })
    }

    fn timed_out(&self, to: &Address, phase: &Phase) -> OpenError {
        let is_accepting = phase.get() == Phase::ACCEPT;
        if !is_accepting {
            self.note_phase(phase);
        }
        let notes = lock(&self.progress);
        match phase.get() {
            Phase::CREDENTIAL if *to != Address::Authority => OpenError::NoCredential {
                last_error: last(&notes.credential_error),
            },
            Phase::LINK => OpenError::NoLink {
                last_error: last(&notes.link_error),
            },
            other => OpenError::Timeout {
                destination: to.to_string(),
                seconds: OPEN_TIMEOUT.as_secs(),
                phase: Phase::NAMES[usize::from(other.min(Phase::ACCEPT))],
            },
        }
    }
}

fn last(error: &Option<String>) -> String {
    error.clone().unwrap_or_else(|| "still trying".to_owned())
}

impl SessionTable {
    /// This session is not to be used for new calls.
    pub(crate) fn forget(&self, to: &Address, conn: &Arc<Conn>) {
        let mut entries = lock(&self.entries);
        let is_it = entries.get(to).is_some_and(
            |entry| matches!(&*entry.state.borrow(), Dial::Up(c) if Arc::ptr_eq(c, conn)),
        );
        if is_it {
            entries.remove(to);
        }
    }
}

impl Entry {
    /// One that was made without a credential does not become one with it, and
    /// one whose credential we have lost is not used on.
    fn is_usable(&self, generation: u64, is_credentialed: bool) -> bool {
        let is_ours = self.generation == generation || (self.is_credentialed && is_credentialed);
        match &*self.state.borrow() {
            Dial::Pending => true,
            Dial::Up(conn) => is_ours && !conn.is_closed(),
            Dial::Failed(_) => false,
        }
    }
}

/// Opens a stream and waits for the peer's answer.
async fn try_open(
    conn: &Arc<Conn>,
    request: OpenRequest,
    early: Option<&mut Early<'_>>,
    phase: &Phase,
) -> Result<Stream, OpenError> {
    let mut stream = conn.open(&request).await?;
    phase.set(Phase::ACCEPT);
    let answer = match early {
        Some(early) => early.accepted(&mut stream).await,
        None => stream.accepted().await,
    };
    match answer {
        Ok(()) => Ok(stream),
        Err(
            StreamError::Reset(refusal)
            | StreamError::Stopped(refusal)
            | StreamError::Ended(refusal),
        ) => Err(OpenError::Refused(refusal)),
        Err(StreamError::SessionClosed(refusal)) => Err(OpenError::SessionClosed(refusal)),
        Err(StreamError::Finished) => Err(OpenError::SessionClosed(crate::conn::lost(
            "the stream ended before it was accepted",
        ))),
    }
}
