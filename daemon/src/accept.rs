//! Accepting connections also when the process has run out of files.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::tcp::tune_listener;

/// Files that are kept free of connections: listeners, admin port, the link to
/// the authority, tokens, logs.
pub const FILES_RESERVED: u64 = 128;

/// After a connection could not be taken for want of a file: whoever holds the
/// files gets time to give some back, and the loop does not spin.
const PAUSE: Duration = Duration::from_millis(10);

/// A listener that keeps one file in reserve. When there is no other, a
/// connection is taken with it to be told so and closed, instead of waiting in
/// the kernel for an answer that does not come.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    spare: Option<File>,
}

impl Acceptor {
    /// Accepts from `listener`, whose connections are set up as
    /// [`tune_listener`] says.
    ///
    /// # Errors
    ///
    /// There is no file to keep in reserve.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        tune_listener(&listener)?;
        let spare = Some(File::open("/dev/null")?);
        Ok(Self { listener, spare })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. One that there is no file for is told `last_words`
    /// and closed.
    pub async fn accept(&mut self, last_words: &[u8]) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_out_of_files(&error) => {
                    self.turn_away(last_words);
                    tracing::warn!(event = "accept", %error, "no file is left for a connection");
                    tokio::time::sleep(PAUSE).await;
                }
                // The other end has gone meanwhile, or the network is down.
                Err(error) => {
                    tracing::debug!(event = "accept", %error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn turn_away(&mut self, last_words: &[u8]) {
        self.spare = None;
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok((connection, _))) = self.listener.poll_accept(&mut cx) {
            say_and_close(connection, last_words);
        }
        // Somebody else may have been faster; then there is none next time.
        self.spare = File::open("/dev/null").ok();
    }
}

/// Sends a few bytes if the socket takes them at once, and closes it.
pub fn say_and_close(connection: TcpStream, last_words: &[u8]) {
    let Ok(mut connection) = connection.into_std() else {
        return;
    };
    // It never waits: the socket is non-blocking.
    let _ = connection.write(last_words);
    let _ = connection.shutdown(Shutdown::Write);
    // What has come is read, or closing would take the last words back.
    let _ = connection.read(&mut [0; 4_096]);
}

/// Whether the process, or the machine, has no file left for something new.
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
