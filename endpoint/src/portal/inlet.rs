//! A loopback port bound to one destination, for programs that know no proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use fairway_daemon::{Acceptor, Drain, DrainGuard};
use fairway_identity::{AddressError, Destination};
use fairway_session::OpenRequest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::LOCAL_CONNECTIONS;
use super::access::{Connection, End};
use super::metrics::{Direction, PortalMetrics};
use crate::{Endpoint, join};

/// What an inlet is made of: where it listens and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InletSpec {
    /// A loopback address.
    pub listen: SocketAddr,
    /// Whom to call, and on which port.
    pub to: Destination,
}

/// Why an inlet cannot be.
#[derive(Debug, thiserror::Error)]
pub enum InletError {
    /// Not `PORT=HOST:PORT`.
    #[error(
        "an inlet is written PORT=HOST:PORT, such as 1883=mosquitto.factory.svc.fairway.internal:1883; this is not: {0}"
    )]
    Form(String),
    /// The destination is no Fairway address.
    #[error("the inlet's destination {text} is not usable")]
    Destination {
        /// What was written.
        text: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// It would listen where others than local apps can connect.
    #[error(
        "an inlet may listen on loopback only, not on {0}: whoever reaches it speaks with this endpoint's identity"
    )]
    NotLoopback(SocketAddr),
    /// The port is taken.
    #[error("cannot listen on {address}: is another process using it?")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl FromStr for InletSpec {
    type Err = InletError;

    /// Reads `PORT=HOST:PORT`, the form of the annotation `fairway.dev/inlets`.
    fn from_str(text: &str) -> Result<Self, InletError> {
        let (port, destination) = text
            .trim()
            .split_once('=')
            .ok_or_else(|| InletError::Form(text.to_owned()))?;
        let port = port
            .trim()
            .parse()
            .ok()
            .filter(|&port: &u16| port != 0)
            .ok_or_else(|| InletError::Form(text.to_owned()))?;
        let to = destination
            .trim()
            .parse()
            .map_err(|source| InletError::Destination {
                text: destination.trim().to_owned(),
                source,
            })?;
        Ok(Self {
            listen: (Ipv4Addr::LOCALHOST, port).into(),
            to,
        })
    }
}

/// A listening inlet.
#[derive(Debug)]
pub struct Inlet {
    acceptor: Acceptor,
    caller: Caller,
}

/// Where its connections go.
#[derive(Debug)]
struct Caller {
    to: Destination,
    endpoint: Endpoint,
    metrics: PortalMetrics,
}

impl Inlet {
    /// Listens on the inlet's port.
    ///
    /// # Errors
    /// The address is not loopback or is taken.
    pub async fn bind(
        spec: &InletSpec,
        endpoint: Endpoint,
        metrics: PortalMetrics,
    ) -> Result<Self, InletError> {
        if !spec.listen.ip().is_loopback() {
            return Err(InletError::NotLoopback(spec.listen));
        }
        let bound = TcpListener::bind(spec.listen).await;
        let acceptor = bound
            .and_then(Acceptor::new)
            .map_err(|source| InletError::Listen {
                address: spec.listen,
                source,
            })?;
        let caller = Caller {
            to: spec.to.clone(),
            endpoint,
            metrics,
        };
        Ok(Self { acceptor, caller })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.acceptor.local_addr()
    }

    /// Serves until the drain begins; live connections go on until it stops.
    pub async fn serve(self, drain: Drain) {
        let caller = Arc::new(self.caller);
        accept_loop(self.acceptor, &[], &drain, |socket, place| {
            Arc::clone(&caller).serve(socket, drain.clone(), place)
        })
        .await;
    }
}

impl Caller {
    async fn serve(self: Arc<Self>, socket: TcpStream, drain: Drain, _place: Place) {
        tokio::select! {
            () = self.connect(socket) => {}
            () = drain.stopped() => {}
        }
    }

    async fn connect(&self, mut socket: TcpStream) {
        let Destination { address, port } = &self.to;
        let connection = Connection::start(
            &self.metrics,
            Direction::Outbound,
            address.to_string(),
            *port,
        );
        let request = OpenRequest::port(*port);
        // In a box, or every connection would be as large as the opening for life.
        let opened = Box::pin(self.endpoint.open_from(&mut socket, address, request)).await;
        match opened {
            Ok((stream, n_sent)) => {
                connection.peer(stream.peer());
                let mut joined = join(socket, stream, Bytes::new()).await;
                joined.to_peer += n_sent as u64;
                connection.joined(joined);
            }
            Err(error) => {
                // Reset, and not closed like one that was served, though all of
                // it may have been read.
                let _ = socket.set_zero_linger();
                connection.end(End::not_opened(&error));
            }
        }
    }
}

/// What a connection has for as long as it is served: it is one of a bounded
/// number, and a drain waits for it.
pub(crate) struct Place {
    _slot: OwnedSemaphorePermit,
    _guard: DrainGuard,
}

/// Accepts until the drain begins, a bounded number at a time. One that there is
/// no file for is told `no_files` and closed.
pub(crate) async fn accept_loop<F, Fut>(
    mut acceptor: Acceptor,
    no_files: &[u8],
    drain: &Drain,
    mut handle: F,
) where
    F: FnMut(TcpStream, Place) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(LOCAL_CONNECTIONS));
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, acceptor.accept(no_files).await)
        };
        let (slot, (socket, _)) = tokio::select! {
            accepted = accepted => accepted,
            () = drain.started() => return,
        };
        let Ok(slot) = slot else {
            return;
        };
        let place = Place {
            _slot: slot,
            _guard: drain.guard(),
        };
        // The task is this future and nothing around it: what wraps a future
        // holds it twice.
        tokio::spawn(handle(socket, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection is little more than its task.
    #[test]
    fn a_connection_is_small() {
        fn size<F>(_: impl Fn(Arc<Caller>, TcpStream, Drain, Place) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Caller::serve);
        assert!(size <= 1_664, "{size} bytes");
    }

    #[test]
    fn the_annotation_form() {
        let spec: InletSpec = " 1883 = mosquitto.factory.svc.fairway.internal:1884"
            .parse()
            .unwrap();
        assert_eq!(spec.listen, "127.0.0.1:1883".parse().unwrap());
        assert_eq!(spec.to.port, 1884);
        for bad in [
            "",
            "1883",
            "1883=",
            "0=a.b.svc.fairway.internal:1",
            "70000=a.b.svc.fairway.internal:1",
            "1=example.com:80",
            "1=a.b.svc.fairway.internal",
        ] {
            assert!(bad.parse::<InletSpec>().is_err(), "{bad}");
        }
    }
}
