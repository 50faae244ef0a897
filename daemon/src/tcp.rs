//! How the TCP connections of every process are set up.

use std::io;

use rustix::net::sockopt::set_tcp_congestion;
use tokio::net::TcpStream;

/// Sets a connection up for whole batches and short answers: nothing waits in
/// the kernel to become larger.
///
/// Over loopback, to an app beside this process, there is no network to be
/// careful of. A congestion control that paces (BBR) would only cost a timer for
/// each write there, so Reno is used, which every Linux has and allows everybody.
///
/// # Errors
///
/// The connection is over.
pub fn tune_tcp(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    if socket.peer_addr()?.ip().to_canonical().is_loopback() {
        // Where it cannot be had, it works with what there is.
        let _ = set_tcp_congestion(socket, "reno");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::tcp_congestion;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn nothing_is_held_back_over_loopback() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        for socket in [near.unwrap(), far.unwrap().0] {
            tune_tcp(&socket).unwrap();
            assert!(socket.nodelay().unwrap());
            assert_eq!(tcp_congestion(&socket).unwrap(), "reno");
        }
    }
}
