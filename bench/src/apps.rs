//! The apps behind a chain, on loopback: one swallows, one sends, one echoes.
//! They run in the harness, so their cost is in no chain's figures.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How much is read or written at a time.
pub const CHUNK: usize = 256 * 1024;

/// Three listening apps.
pub struct Apps {
    /// Reads until the end, then answers how much it was (u64, big endian).
    pub sink: SocketAddr,
    /// Reads a u64 (big endian) and sends that many bytes.
    pub source: SocketAddr,
    /// Sends back what it reads.
    pub echo: SocketAddr,
}

impl Apps {
    /// Starts them.
    ///
    /// # Errors
    /// No ports are left.
    pub async fn start() -> Result<Self> {
        Ok(Self {
            sink: serve(sink).await?,
            source: serve(source).await?,
            echo: serve(echo).await?,
        })
    }
}

async fn serve<F, Fut>(app: F) -> Result<SocketAddr>
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A connection that breaks is the client's to report.
            let _ = socket.set_nodelay(true);
            tokio::spawn(app(socket));
        }
    });
    Ok(address)
}

async fn sink(mut socket: TcpStream) -> std::io::Result<()> {
    let (mut buffer, mut total) = (vec![0; CHUNK], 0);
    loop {
        match socket.read(&mut buffer).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    socket.write_u64(total).await?;
    socket.shutdown().await
}

async fn source(mut socket: TcpStream) -> std::io::Result<()> {
    let (buffer, mut left) = (vec![0; CHUNK], socket.read_u64().await?);
    while left > 0 {
        let now = left.min(CHUNK as u64);
        socket.write_all(&buffer[..now as usize]).await?;
        left -= now;
    }
    socket.shutdown().await
}

async fn echo(mut socket: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match socket.read(&mut buffer).await? {
            0 => return socket.shutdown().await,
            n => socket.write_all(&buffer[..n]).await?,
        }
    }
}
