//! Making sessions: a circuit on a relay that has the destination, or a
//! direct link to the authority.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_channel::PathId;
use fairway_control::link::{CircuitId, Instance};
use fairway_control::{Reason, reason};
use fairway_identity::{Address, HostPort};
use fairway_session::{Local, Refusal, code};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::OpenError;
use crate::config::RelayUse;
use crate::conn::{Conn, lost};
use crate::limits::{ASK_REST, CONNECT_TIMEOUT};
use crate::link::{Command, Driver, LinkKind, LinkShared};
use crate::node::{Node, lock};

/// A circuit that was joined and has no session yet; given back when dropped.
pub(crate) struct JoinedCircuit {
    pub(crate) link: Arc<LinkShared>,
    pub(crate) circuit: CircuitId,
    pub(crate) is_attached: bool,
}

impl Node {
    /// A session with `to` under our own identity, ready for streams.
    pub(crate) async fn dial(self: &Arc<Self>, to: &Address) -> Result<Arc<Conn>, OpenError> {
        if *to != Address::Authority {
            self.wait_for_credential().await?;
        }
        let (local, generation) = self.local();
        self.dial_as(to, local, generation).await
    }

    /// A session with `to` under any identity, ready for streams.
    pub(crate) async fn dial_as(
        self: &Arc<Self>,
        to: &Address,
        local: Local,
        generation: u64,
    ) -> Result<Arc<Conn>, OpenError> {
        if let Some(authority) = &self.authority
            && *to == Address::Authority
        {
            let conn = self.dial_direct(authority, local, generation).await?;
            conn.ready().await?;
            return Ok(conn);
        }
        loop {
            let conn = match self.relay_use {
                RelayUse::One => self.dial_over_one(to, &local).await?,
                RelayUse::All | RelayUse::None => self.dial_over_all(to, &local).await?,
            };
            let Some(link) = conn.first_link() else {
                continue;
            };
            tokio::select! {
                ready = conn.ready() => match ready {
                    Ok(_) => return Ok(conn),
                    // The next link may do better.
                    Err(refusal) if refusal.code == code::LINK_LOST && !link.is_up() => {}
                    Err(refusal) => return Err(refusal.into()),
                },
                () = link.failed() => conn.lost(&lost("the link fell silent")),
            }
        }
    }

    /// Whether a link was made with another credential than we have now.
    fn is_old(&self, link: &LinkShared) -> bool {
        self.identity.borrow().generation != link.generation
    }

    /// Fails at once where waiting is in vain: somebody has to act first.
    async fn wait_for_credential(&self) -> Result<(), OpenError> {
        let mut identity = self.identity.subscribe();
        let mut is_revoked = self.is_revoked.subscribe();
        tokio::select! {
            biased;
            waited = identity.wait_for(|identity| identity.is_credentialed()) => {
                waited.map(drop).map_err(|_| OpenError::Shutdown)
            }
            Ok(_) = is_revoked.wait_for(|is_revoked| *is_revoked) => {
                let error = lock(&self.progress).credential_error.clone();
                Err(OpenError::NoCredential {
                    last_error: error.unwrap_or_default(),
                })
            }
        }
    }

    /// Connects to the authority's Service; circuit 0 is the session itself.
    async fn dial_direct(
        self: &Arc<Self>,
        authority: &HostPort,
        local: Local,
        generation: u64,
    ) -> Result<Arc<Conn>, OpenError> {
        let io = connect(authority).await.map_err(|e| OpenError::NoLink {
            last_error: format!("{authority}: {e}"),
        })?;
        let link = LinkShared::new(LinkKind::Direct, authority.to_string(), generation);
        let conn = self.dial_on(link, 0, &Address::Authority, local)?;
        let driver = Driver::new(self.clone(), conn.clone(), io, None);
        self.tasks.spawn(async move {
            let end = driver.run().await;
            tracing::debug!(event = "link-end", "direct link to the authority: {end}");
        });
        Ok(conn)
    }

    /// Over the only relay: the handshake goes out together with the question
    /// whether the destination is there, which saves a round trip.
    async fn dial_over_one(
        self: &Arc<Self>,
        to: &Address,
        local: &Local,
    ) -> Result<Arc<Conn>, OpenError> {
        let mut links = self.links.subscribe();
        let mut asked = BTreeSet::new();
        loop {
            let usable = |link: &&Arc<LinkShared>| link.is_up() && !asked.contains(&link.id);
            let link = links.borrow_and_update().iter().rev().find(usable).cloned();
            let Some(link) = link else {
                links.changed().await.map_err(|_| OpenError::Shutdown)?;
                continue;
            };
            asked.insert(link.id);
            let Some(circuit) = link.take_circuit() else {
                continue;
            };
            let conn = self.dial_on(link.clone(), circuit.0, to, local.clone())?;
            let asking = ask(&link, circuit, to.clone(), None, Some(conn.clone()));
            let answer = tokio::select! {
                answer = asking => answer,
                () = link.failed() => {
                    link.command(Command::Abandon(circuit));
                    Err(link_lost())
                }
            };
            match answer {
                Ok(()) => return Ok(conn),
                Err(reason) if is_passing(&reason) => {}
                // A link from before there was a credential; the one with it
                // is on its way.
                Err(reason) if reason.word() == reason::AUTHORITY_ONLY && self.is_old(&link) => {}
                Err(reason) => return Err(refused(to, &reason)),
            }
        }
    }

    /// Asks all relays that are linked, and those that come up meanwhile; the
    /// first that has the destination wins.
    async fn dial_over_all(
        self: &Arc<Self>,
        to: &Address,
        local: &Local,
    ) -> Result<Arc<Conn>, OpenError> {
        let mut joined = self.join_circuit(to).await?;
        let (link, id) = (joined.link.clone(), joined.circuit.0);
        let conn = self.dial_on(link, id, to, local.clone())?;
        joined.link.command(Command::Attach {
            circuit: joined.circuit,
            conn: conn.clone(),
            path: PathId::FIRST,
        });
        joined.is_attached = true;
        Ok(conn)
    }

    async fn join_circuit(&self, to: &Address) -> Result<JoinedCircuit, OpenError> {
        let mut links = self.links.subscribe();
        let mut asked = BTreeSet::new();
        let mut answers = FuturesUnordered::new();
        let mut refusal: Option<Reason> = None;
        loop {
            for link in links.borrow_and_update().iter() {
                if link.is_up() && asked.insert(link.id) {
                    answers.push(join(link.clone(), to.clone(), None));
                }
            }
            if answers.is_empty()
                && let Some(reason) = refusal
            {
                return Err(refused(to, &reason));
            }
            tokio::select! {
                Some(answer) = answers.next() => match answer {
                    Ok(joined) => return Ok(joined),
                    Err(reason) if is_passing(&reason) => {}
                    Err(reason) => refusal = Some(better(refusal.take(), reason)),
                },
                changed = links.changed() => if changed.is_err() {
                    return Err(OpenError::Shutdown);
                },
            }
        }
    }
}

impl Node {
    /// Asks all relays that are linked, and those that come up meanwhile, for
    /// one process of `to`; the first that has it wins. A link may be dead
    /// without saying so: once one relay has said no, the others are not
    /// waited for long. The error is the best reason why not; `None` without links.
    pub(crate) async fn ask_all(
        &self,
        to: &Address,
        instance: Instance,
    ) -> Result<JoinedCircuit, Option<Reason>> {
        let mut links = self.links.subscribe();
        let mut asked = BTreeSet::new();
        let mut answers = FuturesUnordered::new();
        let mut refusal = None;
        let mut until = None;
        loop {
            for link in links.borrow_and_update().iter() {
                if link.is_up() && asked.insert(link.id) {
                    answers.push(join(link.clone(), to.clone(), Some(instance)));
                }
            }
            if answers.is_empty() {
                return Err(refusal);
            }
            let is_over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(answer) = answers.next() => match answer {
                    Ok(joined) => return Ok(joined),
                    Err(reason) if is_passing(&reason) => {}
                    Err(reason) => {
                        refusal = Some(better(refusal, reason));
                        until.get_or_insert(Instant::now() + ASK_REST);
                    }
                },
                Ok(()) = links.changed() => {}
                () = is_over => return Err(refusal),
            }
        }
    }
}

/// Of two reasons the one that says more: "not here" says the least.
fn better(before: Option<Reason>, reason: Reason) -> Reason {
    match before {
        Some(before) if reason.word() == NOT_HERE => before,
        _ => reason,
    }
}

/// Whether another link may well say yes.
fn is_passing(reason: &Reason) -> bool {
    [reason::LINK_LOST, reason::DRAINING].contains(&reason.word())
}

/// The relay's word for a name that nobody has registered.
const NOT_HERE: &str = reason::NOT_HERE;

/// Connects, bounded, with small packets sent at once.
async fn connect(to: &HostPort) -> std::io::Result<TcpStream> {
    let connecting = crate::transport::tcp(to.host(), to.port());
    tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)?
}

async fn join(
    link: Arc<LinkShared>,
    to: Address,
    instance: Option<Instance>,
) -> Result<JoinedCircuit, Reason> {
    let circuit = link.take_circuit().ok_or_else(link_lost)?;
    let joined = JoinedCircuit {
        link,
        circuit,
        is_attached: false,
    };
    ask(&joined.link, circuit, to, instance, None).await?;
    Ok(joined)
}

/// Asks one relay for a circuit; with `conn`, its first packet goes along.
async fn ask(
    link: &LinkShared,
    circuit: CircuitId,
    destination: Address,
    instance: Option<Instance>,
    conn: Option<Arc<Conn>>,
) -> Result<(), Reason> {
    let (reply, answer) = oneshot::channel();
    link.command(Command::Open {
        circuit,
        destination,
        instance,
        conn,
        reply,
    });
    answer.await.unwrap_or_else(|_| Err(link_lost()))
}

fn link_lost() -> Reason {
    Reason::new(reason::LINK_LOST, "the link to the relay ended")
}

fn refused(to: &Address, reason: &Reason) -> OpenError {
    if reason.word() == NOT_HERE {
        OpenError::NotHere {
            destination: to.to_string(),
        }
    } else {
        OpenError::RelayRefused {
            reason: reason.word().to_owned(),
        }
    }
}

impl Drop for JoinedCircuit {
    fn drop(&mut self) {
        if !self.is_attached {
            self.link.command(Command::Abandon(self.circuit));
        }
    }
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::SessionClosed(refusal)
    }
}
