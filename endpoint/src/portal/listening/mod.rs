//! Who listens where in this network namespace.
//!
//! An app that listens on the pod's address can be reached without Fairway and
//! would then believe a forged `fairway-peer`. So the sidecar delivers only to
//! ports whose listeners are all on loopback (design: "No way around it").
//!
//! The kernel is asked by netlink, which costs microseconds; where it does not
//! answer (a sandbox, a kernel without `inet_diag`), `/proc/net` is read.

mod proc_net;
mod sock_diag;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::sock_diag::SockDiag;

/// How a local port may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// Every listener of the port is bound to a loopback address.
    Loopback,
    /// At least one listener is bound to this address, which others can reach.
    Exposed(IpAddr),
    /// Nothing listens on the port.
    Nobody,
}

/// For how long a port that was found on loopback only is taken for that. It may
/// be exposed at any moment after a stream was let in, too; and to ask for each
/// stream would be a quarter of the system calls that a short one costs.
const FRESH: Duration = Duration::from_millis(100);

/// The listening sockets of a network namespace.
#[derive(Debug, Clone)]
pub struct ListenTable {
    source: Source,
    /// The port that was last found on loopback only, and when.
    seen: Arc<Mutex<Option<(u16, Instant)>>>,
}

#[derive(Debug, Clone)]
enum Source {
    ThisNamespace(Arc<SockDiag>),
    Files(PathBuf),
}

impl ListenTable {
    /// The table of the caller's own network namespace.
    pub fn of_this_namespace() -> Self {
        Self::from(Source::ThisNamespace(Arc::default()))
    }

    /// A table read from the files `tcp` and `tcp6` below `proc_net`.
    pub fn at(proc_net: impl AsRef<Path>) -> Self {
        Self::from(Source::Files(proc_net.as_ref().to_owned()))
    }

    fn from(source: Source) -> Self {
        Self {
            source,
            seen: Arc::default(),
        }
    }

    /// How `port` is listened on, now or a tenth of a second ago.
    ///
    /// # Errors
    /// When the kernel does not tell: the caller must then refuse to deliver,
    /// since it cannot know.
    pub fn look_up(&self, port: u16) -> io::Result<Listening> {
        self.look_up_at(port, Instant::now())
    }

    fn look_up_at(&self, port: u16, now: Instant) -> io::Result<Listening> {
        let is_fresh = |&(of, at): &(u16, Instant)| of == port && now - at < FRESH;
        if self.seen().as_ref().is_some_and(is_fresh) {
            return Ok(Listening::Loopback);
        }
        let listening = self.ask(port)?;
        if listening == Listening::Loopback {
            *self.seen() = Some((port, now));
        }
        Ok(listening)
    }

    fn seen(&self) -> MutexGuard<'_, Option<(u16, Instant)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, port: u16) -> io::Result<Listening> {
        let listeners = match &self.source {
            Source::ThisNamespace(sock_diag) => sock_diag
                .listeners(port)
                .or_else(|_| proc_net::listeners(Path::new("/proc/net"), port))?,
            Source::Files(proc_net) => proc_net::listeners(proc_net, port)?,
        };
        Ok(judge(&listeners))
    }
}

fn judge(listeners: &[IpAddr]) -> Listening {
    match listeners.iter().find(|address| !is_loopback(**address)) {
        Some(exposed) => Listening::Exposed(*exposed),
        None if listeners.is_empty() => Listening::Nobody,
        None => Listening::Loopback,
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn real_sockets_of_this_process() {
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
        let any = IpAddr::from([0, 0, 0, 0]);
        for table in [
            ListenTable::of_this_namespace(),
            ListenTable::at("/proc/net"),
        ] {
            assert_eq!(table.look_up(port(&loopback)).unwrap(), Listening::Loopback);
            assert_eq!(
                table.look_up(port(&exposed)).unwrap(),
                Listening::Exposed(any)
            );
        }
    }

    #[test]
    fn a_port_that_becomes_exposed_is_noticed() {
        let table = ListenTable::of_this_namespace();
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port(&loopback);
        let now = Instant::now();
        let look_up = |at| table.look_up_at(port, at).unwrap();
        assert_eq!(look_up(now), Listening::Loopback);
        drop(loopback);
        let _exposed = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let any = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(look_up(now + FRESH), Listening::Exposed(any));
    }

    #[test]
    fn one_exposed_listener_is_enough() {
        let [loopback, exposed] = ["::ffff:127.0.0.1", "198.18.0.1"].map(|a| a.parse().unwrap());
        assert_eq!(judge(&[]), Listening::Nobody);
        assert_eq!(judge(&[loopback]), Listening::Loopback);
        assert_eq!(judge(&[loopback, exposed]), Listening::Exposed(exposed));
        assert!(!is_loopback("::".parse().unwrap()));
    }

    #[test]
    fn netlink_and_proc_agree() {
        let listeners = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(TcpListener::bind);
        let sock_diag = SockDiag::default();
        for listener in listeners.iter().flatten() {
            let port = port(listener);
            let asked = sock_diag.listeners(port).unwrap();
            assert_eq!(
                asked,
                proc_net::listeners(Path::new("/proc/net"), port).unwrap()
            );
            assert_eq!(asked, [listener.local_addr().unwrap().ip()]);
        }
    }

    #[test]
    fn an_unreadable_table_is_an_error() {
        assert!(ListenTable::at("/nonexistent").look_up(80).is_err());
    }
}
