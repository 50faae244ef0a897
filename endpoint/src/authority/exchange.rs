//! One request and one answer on a Control stream.

use fairway_control::authority::{Request, Response};
use fairway_control::{FrameReader, Message, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{AuthorityError, StreamError};

/// Sends `request` and reads the answer.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &Request,
) -> Result<Response, AuthorityError> {
    send(stream, request).await?;
    let mut reader = FrameReader::new();
    receive(stream, &mut reader).await
}

/// Sends one message.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> Result<(), AuthorityError> {
    // Only what we were given can be too large: a token, mostly.
    let bytes = frame(message).map_err(|e| AuthorityError::BadAnswer(e.to_string()))?;
    stream.write_all(&bytes).await.map_err(broken)?;
    stream.flush().await.map_err(broken)
}

/// Reads one message; what came after it stays in `reader`.
pub(super) async fn receive<M: Message>(
    stream: &mut (impl AsyncRead + Unpin),
    reader: &mut FrameReader,
) -> Result<M, AuthorityError> {
    let mut buffer = [0; 4096];
    loop {
        let message = reader.next_message();
        match message.map_err(|e| AuthorityError::BadAnswer(e.to_string()))? {
            Some(message) => return Ok(message),
            None => match stream.read(&mut buffer).await.map_err(broken)? {
                0 => return Err(AuthorityError::BadAnswer("it ends too early".to_owned())),
                n => reader.push(&buffer[..n]),
            },
        }
    }
}

/// The stream's own error, if it is one of ours.
fn broken(error: std::io::Error) -> AuthorityError {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<StreamError>());
    AuthorityError::Broken(match inner {
        Some(error) => error.clone(),
        None => StreamError::SessionClosed(crate::conn::lost(&error.to_string())),
    })
}
