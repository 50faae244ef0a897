//! A relay, as far as an endpoint sees it: registers whatever it is asked to,
//! joins circuits, passes frames and credit on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, FrameKind, Instance, Run, ToEndpoint, ToRelay, header};
use fairway_control::{FrameReader, Message, Reason, frame, reason};
use fairway_endpoint::link::LinkReader;
use fairway_identity::{Address, Clock, RelayAddress, SpiffeId, UnixSeconds};
use fairway_session::{
    Admit, Batch, Config, Event, Local, Now, Output, PathId, ReadOutcome, Refusal, Rules, Session,
    StaticSecret, StreamId,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, account};
use super::host_port;

/// A running relay; its links end with [`kill`](Self::kill).
pub struct Relay {
    pub address: RelayAddress,
    shared: Arc<Shared>,
    killed: CancellationToken,
}

struct Shared {
    local: Local,
    origin: Instant,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    names: BTreeMap<Address, (Instance, mpsc::UnboundedSender<ToLink>)>,
    /// Packets that began a circuit, as they came: what a relay that means ill
    /// has to replay.
    firsts: Vec<(Address, Bytes)>,
    links: Vec<mpsc::UnboundedSender<ToLink>>,
    closed: Vec<String>,
    n_circuits: usize,
    n_links: usize,
}

enum ToLink {
    /// Ends the link with these words, if this is who is at its other end.
    Refuse(SpiffeId, Refusal),
    Frames(BytesMut),
    Tell(ToEndpoint),
    /// A circuit from nobody, with this as its first packet.
    Replay(Address, Bytes),
    /// So many circuits from nobody, with nothing on them.
    Silent(Address, usize),
    /// Somebody dialled a name of this link: from which link and circuit.
    Join(Address, mpsc::UnboundedSender<ToLink>, u32),
    /// The other half of a circuit: ours, the other link, its circuit.
    Joined(u32, mpsc::UnboundedSender<ToLink>, u32),
}

impl Relay {
    pub async fn start(authority: &Authority) -> Self {
        Self::start_on(authority, "127.0.0.1:0").await
    }

    pub async fn start_on(authority: &Authority, listen: &str) -> Self {
        let secret = StaticSecret::from_bytes([5; 32]);
        let id = account("fairway-system", "fairway-relay");
        let (lean, full) = authority.issue(id, &[], secret.public());
        let local = Local::anonymous(secret, authority.pin(), [3; 16])
            .with_credential(lean, full)
            .with_trust(authority.trust());
        let shared = Arc::new(Shared {
            local,
            origin: Instant::now(),
            books: Mutex::default(),
        });
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = host_port(listener.local_addr().unwrap()).into();
        let killed = CancellationToken::new();
        let (all, end) = (shared.clone(), killed.clone());
        tokio::spawn(killed.clone().run_until_cancelled_owned(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let link = Link::new(all.clone(), io);
                tokio::spawn(end.clone().run_until_cancelled_owned(link.run()));
            }
        }));
        Self {
            address,
            shared,
            killed,
        }
    }

    /// Circuits that were ever joined.
    pub fn n_circuits(&self) -> usize {
        self.shared.books.lock().unwrap().n_circuits
    }

    /// Links that were ever accepted.
    pub fn n_links(&self) -> usize {
        self.shared.books.lock().unwrap().n_links
    }

    /// Tells all links to move.
    pub fn drain(&self) {
        for link in &self.shared.books.lock().unwrap().links {
            let _ = link.send(ToLink::Tell(ToEndpoint::Drain));
        }
    }

    /// Ends the links of `who`, who is told why, at once: what is under way on
    /// their circuits is lost.
    pub fn refuse(&self, who: &SpiffeId, refusal: &Refusal) {
        for link in &self.shared.books.lock().unwrap().links {
            let _ = link.send(ToLink::Refuse(who.clone(), refusal.clone()));
        }
    }

    /// Opens a circuit to whoever has `name`, with the first packet of an
    /// earlier circuit to it: every one whose first byte is `kind`. The answer
    /// is how many there were.
    pub fn replay(&self, name: &Address, kind: u8) -> usize {
        let books = self.shared.books.lock().unwrap();
        let (_, to) = &books.names[name];
        let packets = books
            .firsts
            .iter()
            .filter(|(dialled, packet)| dialled == name && packet.first() == Some(&kind));
        let packets: Vec<_> = packets.map(|(_, packet)| packet.clone()).collect();
        for packet in &packets {
            let _ = to.send(ToLink::Replay(name.clone(), packet.clone()));
        }
        packets.len()
    }

    /// Opens so many circuits to whoever has `name`, and says nothing on them.
    pub fn open_silently(&self, name: &Address, n_circuits: usize) {
        let books = self.shared.books.lock().unwrap();
        let (_, to) = &books.names[name];
        let _ = to.send(ToLink::Silent(name.clone(), n_circuits));
    }

    /// Circuits that an endpoint closed, with the word why.
    pub fn closed(&self) -> Vec<String> {
        self.shared.books.lock().unwrap().closed.clone()
    }

    /// Ends abruptly, with all links.
    pub fn kill(&self) {
        self.killed.cancel();
    }
}

struct Link {
    shared: Arc<Shared>,
    io: TcpStream,
    reader: LinkReader,
    session: Session,
    control: Option<StreamId>,
    input: FrameReader,
    output: Bytes,
    me: mpsc::UnboundedSender<ToLink>,
    inbox: mpsc::UnboundedReceiver<ToLink>,
    circuits: BTreeMap<u32, (mpsc::UnboundedSender<ToLink>, u32)>,
    /// Circuits of which nothing has come yet.
    dialled: BTreeMap<u32, Address>,
    /// What came on circuits before they were joined.
    early: BTreeMap<u32, Vec<Run>>,
    next: CircuitId,
}

impl Link {
    fn new(shared: Arc<Shared>, io: TcpStream) -> Self {
        let rules = Rules {
            admit: Admit::AlsoAnonymous,
            ..Rules::default()
        };
        let names: Arc<[Address]> = [Address::Relay].into();
        let (me, inbox) = mpsc::unbounded_channel();
        let mut books = shared.books.lock().unwrap();
        let seed = [books.n_links as u8 + 1; 32];
        books.n_links += 1;
        books.links.push(me.clone());
        drop(books);
        let (local, now) = (shared.local.clone(), shared.now());
        let session = Session::answer(Config::new(), local, rules, names, seed, now).unwrap();
        Self {
            shared,
            io,
            reader: LinkReader::new(),
            session,
            control: None,
            input: FrameReader::new(),
            output: Bytes::new(),
            me,
            inbox,
            circuits: BTreeMap::new(),
            dialled: BTreeMap::new(),
            early: BTreeMap::new(),
            next: CircuitId::FIRST_OF_RELAY,
        }
    }

    async fn run(mut self) {
        loop {
            let Some(wait) = self.drain().await else {
                return;
            };
            let (reader, io) = (&mut self.reader, &mut self.io);
            tokio::select! {
                read = std::future::poll_fn(|cx| reader.poll_read(cx, io)) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => self.on_read(),
                },
                message = self.inbox.recv() => match message {
                    Some(message) => self.on_inbox(message).await,
                    None => return,
                },
                () = tokio::time::sleep(wait) => {
                    let now = self.shared.now();
                    self.session.handle_timeout(now);
                }
            }
        }
    }

    fn on_read(&mut self) {
        while let Some(mut run) = self.reader.next_run(1 << 20).unwrap() {
            let circuit = run.circuit();
            if circuit == CircuitId::LINK {
                let now = self.shared.now();
                while let Some(packet) = run.next_payload() {
                    self.session.handle_input(now, PathId::FIRST, packet);
                }
                continue;
            }
            self.note_first(circuit, &run);
            if let Some((other, id)) = self.circuits.get(&circuit.0) {
                let _ = other.send(ToLink::Frames(run.rewrite(CircuitId(*id))));
            } else {
                self.early.entry(circuit.0).or_default().push(run);
            }
        }
    }

    fn note_first(&mut self, circuit: CircuitId, run: &Run) {
        if let Some(dialled) = self.dialled.remove(&circuit.0) {
            let packet = Bytes::copy_from_slice(run.first_payload());
            let mut books = self.shared.books.lock().unwrap();
            books.firsts.push((dialled, packet));
        }
    }

    async fn on_inbox(&mut self, message: ToLink) {
        match message {
            ToLink::Frames(frames) => {
                let _ = self.io.write_all(&frames).await;
            }
            ToLink::Tell(message) => self.tell(&message),
            ToLink::Refuse(who, refusal) => {
                let peer = self.session.peer().and_then(|peer| peer.verified());
                if peer.is_some_and(|peer| *peer.id() == who) {
                    let now = self.shared.now();
                    self.session.close(now, refusal);
                }
            }
            ToLink::Join(destination, other, other_id) => {
                let circuit = self.next;
                self.next = circuit.next().unwrap();
                self.circuits.insert(circuit.0, (other.clone(), other_id));
                self.tell(&ToEndpoint::Incoming {
                    circuit,
                    destination,
                });
                let _ = other.send(ToLink::Joined(other_id, self.me.clone(), circuit.0));
            }
            ToLink::Replay(destination, packet) => {
                let circuit = self.next;
                self.next = circuit.next().unwrap();
                self.tell(&ToEndpoint::Incoming {
                    circuit,
                    destination,
                });
                // The announcement has to be out before the packet.
                self.drain().await;
                let head = header(FrameKind::Data, circuit, packet.len()).unwrap();
                let _ = self.io.write_all(&[&head[..], &packet].concat()).await;
            }
            ToLink::Silent(destination, n_circuits) => {
                for _ in 0..n_circuits {
                    let circuit = self.next;
                    self.next = circuit.next().unwrap();
                    self.tell(&ToEndpoint::Incoming {
                        circuit,
                        destination: destination.clone(),
                    });
                }
            }
            ToLink::Joined(circuit, other, other_id) => {
                for run in self.early.remove(&circuit).unwrap_or_default() {
                    let _ = other.send(ToLink::Frames(run.rewrite(CircuitId(other_id))));
                }
                self.circuits.insert(circuit, (other, other_id));
                let circuit = CircuitId(circuit);
                self.tell(&ToEndpoint::Opened { circuit });
            }
        }
    }

    /// Sends what there is; the answer is how long to wait at most.
    async fn drain(&mut self) -> Option<Duration> {
        let mut batch = Batch::new(LINK_HEADER);
        loop {
            let now = self.shared.now();
            if let Some(stream) = self.control {
                let _ = self.session.write(now, stream, &mut self.output);
            }
            match self.session.poll_output(now, &mut batch) {
                Output::Transmit { .. } => {
                    for packet in batch.packets_mut() {
                        let length = packet.len() - LINK_HEADER;
                        let head = header(FrameKind::Data, CircuitId::LINK, length).unwrap();
                        packet[..LINK_HEADER].copy_from_slice(&head);
                    }
                    self.io.write_all(batch.as_slice()).await.ok()?;
                    batch.clear();
                }
                Output::Event(event) => self.on_event(event)?,
                Output::Timeout(at) => {
                    let wait = at.map_or(Duration::from_secs(60), |at| at.saturating_sub(now.mono));
                    return Some(wait);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Option<()> {
        let now = self.shared.now();
        match event {
            Event::Incoming { stream, grant, .. } => {
                self.session.accept(now, &grant).unwrap();
                self.control = Some(stream);
            }
            Event::Readable(stream) => {
                while let Ok(ReadOutcome::Chunk(chunk)) = self.session.read(now, stream) {
                    self.input.push(&chunk);
                }
                while let Some(message) = self.input.next_message().unwrap() {
                    self.on_message(message);
                }
            }
            Event::Closed { .. } => return None,
            _ => {}
        }
        Some(())
    }

    fn on_message(&mut self, message: ToRelay) {
        match message {
            ToRelay::Register { names, instance } => {
                for name in names {
                    let mut books = self.shared.books.lock().unwrap();
                    let here = (instance, self.me.clone());
                    books.names.insert(name.clone(), here);
                    drop(books);
                    self.tell(&ToEndpoint::Registered { name });
                }
            }
            ToRelay::Deregister { names } => {
                let mut books = self.shared.books.lock().unwrap();
                for name in names {
                    if books
                        .names
                        .get(&name)
                        .is_some_and(|(_, to)| to.same_channel(&self.me))
                    {
                        books.names.remove(&name);
                    }
                }
            }
            ToRelay::Open {
                circuit,
                destination,
                instance,
            } => {
                self.dialled.insert(circuit.0, destination.clone());
                let mut books = self.shared.books.lock().unwrap();
                let join = ToLink::Join(destination.clone(), self.me.clone(), circuit.0);
                let known = books.names.get(&destination);
                let is_it = |is: &Instance| instance.is_none_or(|wanted| wanted == *is);
                if known.is_some_and(|(is, to)| is_it(is) && to.send(join).is_ok()) {
                    books.n_circuits += 1;
                } else {
                    drop(books);
                    let reason = Reason::new(reason::NOT_HERE, "nobody has this name");
                    self.tell(&ToEndpoint::Refused { circuit, reason });
                }
            }
            ToRelay::Close { circuit, reason } => {
                let mut books = self.shared.books.lock().unwrap();
                books.closed.push(reason.word().to_owned());
                drop(books);
                if let Some((other, id)) = self.circuits.remove(&circuit.0) {
                    let circuit = CircuitId(id);
                    let _ = other.send(ToLink::Tell(ToEndpoint::Closed { circuit, reason }));
                }
            }
            ToRelay::Credit { circuit, max_bytes } => {
                if let Some((other, id)) = self.circuits.get(&circuit.0) {
                    let circuit = CircuitId(*id);
                    let _ = other.send(ToLink::Tell(ToEndpoint::Credit { circuit, max_bytes }));
                }
            }
            ToRelay::Move { circuit } => {
                if let Some((other, id)) = self.circuits.get(&circuit.0) {
                    let circuit = CircuitId(*id);
                    let _ = other.send(ToLink::Tell(ToEndpoint::Move { circuit }));
                }
            }
        }
    }

    fn tell(&mut self, message: &impl Message) {
        let mut output = BytesMut::from(std::mem::take(&mut self.output));
        output.extend_from_slice(&frame(message).unwrap());
        self.output = output.freeze();
    }
}

/// The link is gone: whoever is at the other end of a circuit hears of it.
impl Drop for Link {
    fn drop(&mut self) {
        for (other, id) in self.circuits.values() {
            let (circuit, reason) = (CircuitId(*id), Reason::new(reason::LINK_LOST, ""));
            let _ = other.send(ToLink::Tell(ToEndpoint::Closed { circuit, reason }));
        }
        let mut books = self.shared.books.lock().unwrap();
        books.names.retain(|_, (_, to)| !to.same_channel(&self.me));
    }
}

impl Shared {
    fn now(&self) -> Now {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Now {
            mono: self.origin.elapsed(),
            clock: Clock::Trusted(UnixSeconds(since.as_secs())),
        }
    }
}
