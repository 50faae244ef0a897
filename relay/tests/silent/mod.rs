//! Somebody with a good credential who does to a relay what no endpoint does:
//! opens circuits and says nothing on them, or nonsense.

use std::collections::VecDeque;

use fairway_bench::authority::device;
use fairway_bench::raw_link::{RawLink, system_clock};
use fairway_control::link::{CircuitId, FrameKind, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use tokio::net::TcpStream;

use crate::common::{COLLECTOR, Installation, within};

/// A link to the relay, and nothing behind it.
pub(crate) struct Peer {
    link: RawLink,
    /// Why circuits were closed that nobody has asked about yet.
    closed: VecDeque<String>,
    next: CircuitId,
}

impl Peer {
    /// The link of the device `name` of namespace `factory`.
    pub(crate) async fn link(installation: &Installation, name: &str) -> Self {
        let subject = device("factory", name);
        let local = installation.authority.local(&subject, [0; 16]).unwrap();
        let address = installation.relay.address.at().to_string();
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut link = RawLink::dial(socket, local, system_clock).await.unwrap();
        within(link.establish()).await.unwrap();
        Self {
            link,
            closed: VecDeque::new(),
            next: CircuitId::FIRST_OF_ENDPOINT,
        }
    }

    /// Opens a circuit to the collector; the error is the relay's word why not.
    /// It has told the collector before it answers.
    pub(crate) async fn open(&mut self) -> Result<CircuitId, String> {
        self.open_to(COLLECTOR).await
    }

    /// Waits until the relay has done all that it was told: it does one thing
    /// after the other, and a call between devices it refuses.
    pub(crate) async fn heard_out(&mut self) {
        let refused = self.open_to("nobody.factory.device.fairway.internal").await;
        assert_eq!(refused, Err(reason::FORBIDDEN.to_owned()));
    }

    async fn open_to(&mut self, name: &str) -> Result<CircuitId, String> {
        let circuit = self.next;
        self.next = circuit.next().unwrap();
        self.say(ToRelay::Open {
            circuit,
            destination: name.parse().unwrap(),
            instance: None,
        })
        .await;
        within(async {
            loop {
                match self.link.hear().await.unwrap() {
                    ToEndpoint::Opened { .. } => return Ok(circuit),
                    ToEndpoint::Refused { reason, .. } => return Err(reason.word().to_owned()),
                    // Others may be closed meanwhile: that is heard later.
                    message => self.closed.extend(closed(&message)),
                }
            }
        })
        .await
    }

    pub(crate) async fn close(&mut self, circuit: CircuitId) {
        let reason = Reason::new("cancelled", "the test wants it");
        self.say(ToRelay::Close { circuit, reason }).await;
    }

    /// Sends one frame.
    pub(crate) async fn send(&mut self, circuit: CircuitId, payload: &[u8]) {
        let sent = self.link.send(FrameKind::Data, circuit.0, payload).await;
        sent.unwrap();
    }

    /// Waits, for however long, until a circuit was closed; the answer is the
    /// word why.
    pub(crate) async fn closed_circuit(&mut self) -> String {
        loop {
            if let Some(word) = self.closed.pop_front() {
                return word;
            }
            let message = self.link.hear().await.unwrap();
            self.closed.extend(closed(&message));
        }
    }

    async fn say(&mut self, message: ToRelay) {
        self.link.say(&message).await.unwrap();
    }
}

/// The word why a circuit was closed, if this is what the relay says.
fn closed(message: &ToEndpoint) -> Option<String> {
    match message {
        ToEndpoint::Closed { reason, .. } => Some(reason.word().to_owned()),
        _ => None,
    }
}
