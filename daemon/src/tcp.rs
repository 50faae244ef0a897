//! How the TCP connections of every process are set up.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::net::sockopt::{set_tcp_congestion, set_tcp_nodelay};
use tokio::net::{TcpListener, TcpStream};

/// Sets a connection to `peer` up for whole batches and short answers: nothing
/// waits in the kernel to become larger.
///
/// Over loopback, to an app beside this process, there is no network to be
/// careful of. A congestion control that paces (BBR) would only cost a timer for
/// each write there, so Reno is used, which every Linux has and allows everybody.
///
/// # Errors
///
/// The connection is over.
pub fn tune_tcp(socket: &TcpStream, peer: IpAddr) -> io::Result<()> {
    tune(socket, peer)
}

/// The same for all connections that `listener` accepts from now on: they
/// inherit it (tcp(7)), which saves system calls for each.
///
/// # Errors
///
/// What the operating system says.
pub fn tune_listener(listener: &TcpListener) -> io::Result<()> {
    // Whoever reaches an address on loopback calls from there.
    tune(listener, listener.local_addr()?.ip())
}

fn tune(socket: impl AsFd, peer: IpAddr) -> io::Result<()> {
    set_tcp_nodelay(&socket, true)?;
    if peer.to_canonical().is_loopback() {
        // Where it cannot be had, it works with what there is.
        let _ = set_tcp_congestion(&socket, "reno");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::tcp_congestion;

    #[tokio::test]
    async fn nothing_is_held_back_over_loopback() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        for socket in [near.unwrap(), far.unwrap().0] {
            tune_tcp(&socket, address.ip()).unwrap();
            assert_tuned(&socket);
        }
    }

    #[tokio::test]
    async fn what_is_accepted_inherits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tune_listener(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        let (_near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        assert_tuned(&far.unwrap().0);
    }

    fn assert_tuned(socket: &TcpStream) {
        assert!(socket.nodelay().unwrap());
        assert_eq!(tcp_congestion(socket).unwrap(), "reno");
    }
}
