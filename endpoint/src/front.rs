//! The authority's front: accepts direct links and pipes Control streams to
//! the authority's process.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairway_control::front::{self, Preamble};
use fairway_control::link::refused_frame;
use fairway_control::{Reason, frame, reason};
use fairway_daemon::{Acceptor, Entry, Gate, GateLimits, say_and_close};
use fairway_identity::Address;
use fairway_session::{Grant, PeerInfo, Refusal, code};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;

use crate::Stream;
use crate::limits::{
    ACCEPTED_LINKS_MAX, ACCEPTS, ACCEPTS_PER_SOURCE, HALF_OPEN_LINKS_MAX, PIPED_STREAMS_MAX,
};
use crate::link::{Driver, LinkKind, LinkShared};
use crate::node::Node;

/// Where Control streams go.
#[derive(Debug)]
pub(crate) struct Front {
    socket: PathBuf,
    piped: Arc<Semaphore>,
}

impl Front {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            piped: Arc::new(Semaphore::new(PIPED_STREAMS_MAX)),
        }
    }

    /// Pipes a stream to the authority. Never waits.
    pub(crate) fn pipe(&self, node: &Arc<Node>, grant: Grant, stream: Stream) {
        let Ok(permit) = self.piped.clone().try_acquire_owned() else {
            stream.refuse(&Refusal::new(code::OVERLOADED, "too many requests at once"));
            return;
        };
        let socket = self.socket.clone();
        node.spawn(async move {
            if let Err(error) = pipe_stream(&socket, &grant, stream).await {
                tracing::debug!(event = "front-pipe", peer = %grant.peer(), %error, "pipe ended");
            }
            drop(permit);
        });
    }
}

/// Accepts direct links until the endpoint closes.
pub(crate) async fn accept_links(node: Arc<Node>, mut listener: Acceptor) {
    let gate = Gate::new(GateLimits {
        connections: ACCEPTED_LINKS_MAX,
        half_open: HALF_OPEN_LINKS_MAX,
        accepts: ACCEPTS,
        accepts_per_source: ACCEPTS_PER_SOURCE,
    });
    let no_files = overloaded("no file is left for a connection");
    loop {
        let (io, from) = listener.accept(&no_files).await;
        match gate.admit(from.ip()) {
            // The handshake is the link's own: nothing is waited for in here.
            Ok(entry) => {
                if let Err(error) = accept_link(&node, io, from, entry) {
                    tracing::debug!(event = "accept", %from, "{error}");
                }
            }
            Err(why) => {
                node.metrics.half_open_refused.inc();
                say_and_close(io, &overloaded(&why.to_string()));
            }
        }
    }
}

fn overloaded(text: &str) -> Vec<u8> {
    refused_frame(&Reason::new(reason::OVERLOADED, text))
}

fn accept_link(
    node: &Arc<Node>,
    io: TcpStream,
    from: SocketAddr,
    entry: Entry,
) -> Result<(), String> {
    fairway_daemon::tune_tcp(&io, from.ip()).map_err(|e| e.to_string())?;
    let generation = node.identity.borrow().generation;
    let link = LinkShared::new(LinkKind::Accepted, from.to_string(), generation);
    let conn = node
        .answer(link, 0, &Address::Authority)
        .map_err(|e| e.to_string())?;
    let driver = Driver::new(node.clone(), conn, io, Some(entry));
    node.tasks.spawn(async move {
        let end = driver.run().await;
        tracing::debug!(event = "link-end", %from, "direct link: {end}");
    });
    Ok(())
}

async fn pipe_stream(socket: &Path, grant: &Grant, stream: Stream) -> io::Result<()> {
    let mut authority = match UnixStream::connect(socket).await {
        Ok(authority) => authority,
        Err(error) => {
            let text = "the authority's process does not answer; try again";
            stream.refuse(&Refusal::new(code::OVERLOADED, text));
            return Err(error);
        }
    };
    authority.write_all(&preamble(grant.peer())).await?;
    if let Err(refusal) = stream.accept(grant) {
        stream.refuse(&refusal);
        return Ok(());
    }
    let (mut recv, mut send) = stream.split();
    let (mut from_authority, mut to_authority) = authority.split();
    let up = async {
        copy(&mut recv, &mut to_authority).await?;
        to_authority.shutdown().await
    };
    let down = async {
        copy(&mut from_authority, &mut send).await?;
        send.finish();
        Ok(())
    };
    tokio::try_join!(up, down).map(drop)
}

fn preamble(peer: &PeerInfo) -> Vec<u8> {
    let preamble = Preamble::Stream(front::Stream {
        handshake_hash: *peer.handshake_hash(),
        proven_key: *peer.key(),
        peer: peer.verified().map(|verified| front::Peer {
            id: verified.id().clone(),
            uid: verified.uid().clone(),
            serial: verified.serial(),
            issued_at: verified.issued_at(),
            expires: verified.expires(),
        }),
    });
    frame(&preamble).expect("what was verified is within the limits of a preamble")
}
