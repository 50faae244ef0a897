//! What lies between an endpoint and a relay: an HTTP proxy, a port forwarded,
//! a network that loses and delays datagrams.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part of what is common, and this is test code"
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use fairway_identity::HostPort;
use http::header::{PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proxy that knows CONNECT and Basic authentication, and resolves every name
/// to this machine.
pub(crate) struct HttpProxy {
    pub(crate) address: SocketAddr,
    n_tunnels: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl HttpProxy {
    /// `user` is `USER:PASSWORD`.
    pub(crate) async fn start(user: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(user);
        let expected: Arc<str> = format!("Basic {encoded}").into();
        let n_tunnels = Arc::<AtomicUsize>::default();
        let counter = n_tunnels.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (expected, counter) = (expected.clone(), counter.clone());
                let service = service_fn(move |request| {
                    let (expected, counter) = (expected.clone(), counter.clone());
                    async move { tunnel(request, &expected, &counter).await }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .with_upgrades(),
                );
            }
        });
        Self {
            address,
            n_tunnels,
            task,
        }
    }

    pub(crate) fn n_tunnels(&self) -> usize {
        self.n_tunnels.load(Ordering::Relaxed)
    }
}

async fn tunnel(
    request: Request<Incoming>,
    expected: &str,
    n_tunnels: &AtomicUsize,
) -> Result<Response<Empty<bytes::Bytes>>, http::Error> {
    let status = |status| Response::builder().status(status);
    let shown = request.headers().get(PROXY_AUTHORIZATION);
    if shown.is_none_or(|shown| shown != expected) {
        return status(StatusCode::PROXY_AUTHENTICATION_REQUIRED)
            .header(PROXY_AUTHENTICATE, "Basic realm=\"factory\"")
            .body(Empty::new());
    }
    let port = request.uri().port_u16();
    let (Method::CONNECT, Some(port)) = (request.method().clone(), port) else {
        return status(StatusCode::METHOD_NOT_ALLOWED).body(Empty::new());
    };
    n_tunnels.fetch_add(1, Ordering::Relaxed);
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let mut relay = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut upgraded = TokioIo::new(upgraded);
        let _ = tokio::io::copy_bidirectional(&mut upgraded, &mut relay).await;
    });
    status(StatusCode::OK).body(Empty::new())
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A TCP port that leads to another.
pub(crate) struct Forwarder(JoinHandle<()>);

impl Forwarder {
    pub(crate) async fn start(listen: &HostPort, to: &HostPort) -> Self {
        let listener = TcpListener::bind(listen.to_string()).await.unwrap();
        let to = to.to_string();
        Self(tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(&to).await.unwrap();
                tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        }))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What does not get through, without a word to anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Blocked {
    #[default]
    No,
    /// What goes to the relay.
    Up,
    /// Whatever it is.
    Both,
}

/// TCP connections to a relay that can fall silent.
pub(crate) struct Wire {
    pub(crate) address: String,
    blocked: watch::Sender<Blocked>,
    task: JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn start(to: &HostPort) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (blocked, watched) = watch::channel(Blocked::No);
        let to = to.to_string();
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (to, blocked) = (to.clone(), watched.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else {
                        return;
                    };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let up = carry(near_read, far_write, true, blocked.clone());
                    let down = carry(far_read, near_write, false, blocked);
                    tokio::select! {
                        () = up => {}
                        () = down => {}
                    }
                });
            }
        });
        Self {
            address,
            blocked,
            task,
        }
    }

    pub(crate) fn block(&self, blocked: Blocked) {
        self.blocked.send_replace(blocked);
    }
}

/// What has come while it was blocked never gets through: a connection that was
/// blocked once is dead.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_up: bool,
    mut blocked: watch::Receiver<Blocked>,
) {
    let is_blocked = |blocked: &Blocked| match blocked {
        Blocked::No => false,
        Blocked::Up => is_up,
        Blocked::Both => true,
    };
    let mut bytes = vec![0; 64 * 1024];
    let carrying = async {
        loop {
            match from.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(n) if to.write_all(&bytes[..n]).await.is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let cut = async {
        if blocked.wait_for(is_blocked).await.is_ok() {
            return;
        }
        std::future::pending().await
    };
    tokio::select! {
        () = carrying => {}
        () = cut => std::future::pending().await,
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A network between one client and a relay: loses some datagrams of a hundred,
/// by a fixed sequence, and delays all of them.
pub(crate) struct Datagrams {
    pub(crate) address: String,
    state: Arc<Network>,
}

struct Network {
    near: UdpSocket,
    /// Towards the relay; another one is another address.
    far: Mutex<Arc<UdpSocket>>,
    client: Mutex<Option<SocketAddr>>,
    relay: SocketAddr,
    loss_percent: u64,
    delay: Duration,
    chance: Mutex<u64>,
    blocked: Mutex<Blocked>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Datagrams {
    pub(crate) async fn start(relay: &HostPort, loss_percent: u64, delay: Duration) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = near.local_addr().unwrap().to_string();
        let state = Arc::new(Network {
            near,
            far: Mutex::new(far.clone()),
            client: Mutex::default(),
            relay: relay.to_string().parse().unwrap(),
            loss_percent,
            delay,
            chance: Mutex::new(7),
            blocked: Mutex::default(),
            tasks: Mutex::default(),
        });
        let up = tokio::spawn(state.clone().up());
        let down = tokio::spawn(state.clone().down(far));
        state.tasks.lock().unwrap().extend([up, down]);
        Self { address, state }
    }

    pub(crate) fn block(&self, blocked: Blocked) {
        *self.state.blocked.lock().unwrap() = blocked;
    }

    /// From now on datagrams come to the relay from elsewhere, and what it sends
    /// to the address before is lost.
    pub(crate) async fn change_address(&self) {
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        *self.state.far.lock().unwrap() = far.clone();
        let down = tokio::spawn(self.state.clone().down(far));
        let mut tasks = self.state.tasks.lock().unwrap();
        tasks[1].abort();
        tasks.push(down);
    }
}

impl Network {
    fn is_lost(&self) -> bool {
        let mut chance = self.chance.lock().unwrap();
        *chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*chance >> 33) % 100 < self.loss_percent
    }

    async fn up(self: Arc<Self>) {
        let mut bytes = vec![0; 65_536];
        loop {
            let (n, from) = self.near.recv_from(&mut bytes).await.unwrap();
            *self.client.lock().unwrap() = Some(from);
            if self.is_lost() || *self.blocked.lock().unwrap() != Blocked::No {
                continue;
            }
            let (network, datagram) = (self.clone(), bytes[..n].to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(network.delay).await;
                let far = network.far.lock().unwrap().clone();
                let _ = far.send_to(&datagram, network.relay).await;
            });
        }
    }

    async fn down(self: Arc<Self>, far: Arc<UdpSocket>) {
        let mut bytes = vec![0; 65_536];
        loop {
            let Ok((n, _)) = far.recv_from(&mut bytes).await else {
                continue;
            };
            let client = *self.client.lock().unwrap();
            let is_blocked = *self.blocked.lock().unwrap() == Blocked::Both;
            let Some(client) = client.filter(|_| !self.is_lost() && !is_blocked) else {
                continue;
            };
            let (network, datagram) = (self.clone(), bytes[..n].to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(network.delay).await;
                let _ = network.near.send_to(&datagram, client).await;
            });
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        for task in self.state.tasks.lock().unwrap().iter() {
            task.abort();
        }
    }
}
