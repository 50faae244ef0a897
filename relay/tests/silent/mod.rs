//! Somebody with a good credential who does to a relay what no endpoint does:
//! opens circuits and says nothing on them, or nonsense.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use fairway_bench::authority::device;
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, FrameKind, ToEndpoint, ToRelay, header, take_run};
use fairway_control::{FrameReader, Reason, frame, reason};
use fairway_identity::{Address, Clock, UnixSeconds, VerifiedTrustSet};
use fairway_session::{
    Batch, Config, Event, Local, Now, OpenRequest, Output, PathId, ReadOutcome, Rules, Session,
    StaticSecret, StreamId, Time,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::common::{COLLECTOR, Installation, within};

/// A link to the relay, and nothing behind it.
pub(crate) struct Peer {
    socket: TcpStream,
    session: Session,
    began: Instant,
    control: Option<StreamId>,
    reader: FrameReader,
    buffer: BytesMut,
    batch: Batch,
    heard: VecDeque<ToEndpoint>,
    due: Option<Time>,
    next: CircuitId,
}

impl Peer {
    /// The link of the device `name` of namespace `factory`.
    pub(crate) async fn link(installation: &Installation, name: &str) -> Self {
        let mut seeds = [[0; 32]; 2];
        for seed in &mut seeds {
            getrandom::fill(seed).unwrap();
        }
        let [secret, seed] = seeds;
        let secret = StaticSecret::from_bytes(secret);
        let (authority, pin) = (&installation.authority, installation.authority.root_hash());
        let subject = device("factory", name);
        let issued = authority.credential(&subject, secret.public()).unwrap();
        let trust = VerifiedTrustSet::verify(&issued.trust_set, &pin, 0).unwrap();
        let local = Local::anonymous(secret, pin, [0; 16])
            .with_credential(issued.lean, issued.full)
            .with_trust(trust);
        let (config, rules, began) = (Config::new(), Rules::default(), Instant::now());
        let session = Session::dial(config, local, rules, Address::Relay, seed, now(began));
        let address = installation.relay.address.at().to_string();
        let mut peer = Self {
            socket: TcpStream::connect(address).await.unwrap(),
            session: session.unwrap(),
            began,
            control: None,
            reader: FrameReader::new(),
            buffer: BytesMut::new(),
            batch: Batch::new(LINK_HEADER),
            heard: VecDeque::new(),
            due: None,
            next: CircuitId::FIRST_OF_ENDPOINT,
        };
        peer.socket.set_nodelay(true).unwrap();
        peer.pump().await;
        within(async {
            while !peer.session.is_established() {
                peer.step().await;
            }
        })
        .await;
        let control = peer.session.open(now(began), &OpenRequest::control());
        peer.control = Some(control.unwrap());
        peer.pump().await;
        peer
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
                // Others may be closed meanwhile: that is heard later.
                let is_answer = |message: &ToEndpoint| {
                    matches!(
                        message,
                        ToEndpoint::Opened { .. } | ToEndpoint::Refused { .. }
                    )
                };
                if let Some(at) = self.heard.iter().position(is_answer) {
                    return match self.heard.remove(at) {
                        Some(ToEndpoint::Refused { reason, .. }) => Err(reason.word().to_owned()),
                        _ => Ok(circuit),
                    };
                }
                self.step().await;
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
        let head = header(FrameKind::Data, circuit, payload.len()).unwrap();
        let frame = [&head[..], payload].concat();
        self.socket.write_all(&frame).await.unwrap();
    }

    /// Waits, for however long, until a circuit was closed; the answer is the
    /// word why.
    pub(crate) async fn closed_circuit(&mut self) -> String {
        loop {
            if let Some(message) = self.heard.pop_front() {
                if let ToEndpoint::Closed { reason, .. } = message {
                    return reason.word().to_owned();
                }
                continue;
            }
            self.step().await;
        }
    }

    async fn say(&mut self, message: ToRelay) {
        let mut bytes = Bytes::from(frame(&message).unwrap());
        let stream = self.control.expect("the control stream is open");
        while !bytes.is_empty() {
            let now = now(self.began);
            let n = self.session.write(now, stream, &mut bytes).unwrap();
            self.pump().await;
            if n == 0 {
                self.step().await;
            }
        }
    }

    /// Reads once, or does what has become due.
    async fn step(&mut self) {
        let elapsed = self.began.elapsed();
        let wait = self
            .due
            .map_or(Duration::MAX, |at| at.saturating_sub(elapsed));
        let read = self.socket.read_buf(&mut self.buffer);
        match tokio::time::timeout(wait, read).await {
            Ok(read) => assert!(read.unwrap() > 0, "the relay ended the link"),
            Err(_) => self.session.handle_timeout(now(self.began)),
        }
        while let Some(mut run) = take_run(&mut self.buffer, usize::MAX).unwrap() {
            let is_links = run.circuit() == CircuitId::LINK;
            while let Some(packet) = run.next_payload() {
                if is_links {
                    let now = now(self.began);
                    self.session.handle_input(now, PathId::FIRST, packet);
                }
            }
        }
        self.pump().await;
    }

    async fn pump(&mut self) {
        loop {
            match self.session.poll_output(now(self.began), &mut self.batch) {
                Output::Transmit { .. } => {}
                Output::Event(event) => self.on_event(event),
                Output::Timeout(at) => {
                    self.due = at;
                    break;
                }
            }
        }
        for packet in self.batch.packets_mut() {
            let length = packet.len() - LINK_HEADER;
            let head = header(FrameKind::Data, CircuitId::LINK, length).unwrap();
            packet[..LINK_HEADER].copy_from_slice(&head);
        }
        self.socket.write_all(self.batch.as_slice()).await.unwrap();
        self.batch.clear();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Readable(stream) => {
                let now = now(self.began);
                while let Ok(ReadOutcome::Chunk(bytes)) = self.session.read(now, stream) {
                    self.reader.push(&bytes);
                }
                while let Some(message) = self.reader.next_message().unwrap() {
                    self.heard.push_back(message);
                }
            }
            Event::Closed { refusal, .. } => panic!("the relay ended the link: {refusal}"),
            _ => {}
        }
    }
}

fn now(began: Instant) -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Now {
        mono: began.elapsed(),
        clock: Clock::Trusted(UnixSeconds(since.as_secs())),
    }
}
