//! SOCKS5 (RFC 1928) on the proxy's port, for apps that know it and no HTTP
//! proxy: CONNECT, without authentication, to names under `fairway.internal`.
//! What is inside is bytes; an app's HTTP is looked into by the peer, as far
//! as its policy does.

use std::str::FromStr as _;

use bytes::BytesMut;
use fairway_identity::{Address, AddressError, Destination};
use fairway_session::OpenRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::HEAD_TIMEOUT;
use super::access::End;
use super::proxy::Proxy;
use crate::{OpenError, join};

/// First byte of everything that a SOCKS5 client says; no HTTP request begins
/// with it.
pub(super) const VERSION: u8 = 5;

/// The longest that a client may say before it is answered: a request with a
/// name of 255 bytes. A greeting is shorter.
const SAID_MAX: usize = 4 + 1 + 255 + 2;

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The field REP of an answer (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failed = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    Refused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

/// Why a client is not served.
#[derive(Debug, PartialEq, thiserror::Error)]
enum Unserved {
    #[error("not SOCKS5")]
    Malformed,
    #[error("this proxy knows SOCKS5 without authentication only")]
    Authentication,
    #[error("this proxy knows CONNECT only")]
    Command,
    #[error(
        "write a name under fairway.internal (socks5h, not socks5): addresses say nothing here"
    )]
    AddressType,
    #[error("only names under fairway.internal are reached through here")]
    Foreign(#[source] AddressError),
}

/// Serves one connection of a local app.
pub(super) async fn serve(proxy: &Proxy, mut socket: TcpStream) {
    let mut said = BytesMut::with_capacity(SAID_MAX);
    let asked = tokio::time::timeout(HEAD_TIMEOUT, negotiate(&mut socket, &mut said)).await;
    let to = match asked {
        Ok(Ok(Some(to))) => to,
        // It left, or says nothing.
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(unserved)) => {
            tracing::debug!(event = "proxy", error = %unserved, "a local connection asked for what is not served");
            if let Some(reply) = unserved.reply() {
                answer(&mut socket, reply).await;
            }
            return;
        }
    };
    let connection = proxy.connection(&to);
    let request = OpenRequest::port(to.port);
    match proxy.endpoint().open(&to.address, request).await {
        Ok(stream) => {
            connection.peer(stream.peer());
            if answer(&mut socket, Reply::Succeeded).await {
                let joined = join(socket, stream, said.freeze()).await;
                connection.joined(joined);
            }
        }
        Err(error) => {
            connection.end(End::not_opened(&error));
            answer(&mut socket, Reply::of(&error)).await;
        }
    }
}

/// Greeting, choice of method, request. What the client sent beyond it is left
/// in `said`. `None`: the client left.
async fn negotiate(
    socket: &mut TcpStream,
    said: &mut BytesMut,
) -> Result<Option<Destination>, Unserved> {
    let Some(wants_none) = next(socket, said, greeting).await? else {
        return Ok(None);
    };
    let method = match wants_none {
        true => NO_AUTHENTICATION,
        false => NO_ACCEPTABLE_METHOD,
    };
    if socket.write_all(&[VERSION, method]).await.is_err() {
        return Ok(None);
    }
    if !wants_none {
        return Err(Unserved::Authentication);
    }
    next(socket, said, request).await
}

/// A message that may still be on its way: its value and its length.
type Parsed<T> = Result<Option<(T, usize)>, Unserved>;

/// Reads until `parse` has a whole message.
async fn next<T>(
    socket: &mut TcpStream,
    said: &mut BytesMut,
    parse: fn(&[u8]) -> Parsed<T>,
) -> Result<Option<T>, Unserved> {
    loop {
        if let Some((value, length)) = parse(said)? {
            let _ = said.split_to(length);
            return Ok(Some(value));
        }
        // A message that is not whole is shorter than SAID_MAX.
        let room = SAID_MAX - said.len();
        match (&mut *socket).take(room as u64).read_buf(said).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

/// Whether the client would go without authentication.
fn greeting(bytes: &[u8]) -> Parsed<bool> {
    let &[version, n_methods, ref methods @ ..] = bytes else {
        return begins_well(bytes);
    };
    if version != VERSION || n_methods == 0 {
        return Err(Unserved::Malformed);
    }
    let n_methods = usize::from(n_methods);
    let Some(methods) = methods.get(..n_methods) else {
        return Ok(None);
    };
    Ok(Some((methods.contains(&NO_AUTHENTICATION), 2 + n_methods)))
}

/// Whom the client wants to reach.
fn request(bytes: &[u8]) -> Parsed<Destination> {
    let &[version, command, reserved, address_type, ref rest @ ..] = bytes else {
        return begins_well(bytes);
    };
    if version != VERSION || reserved != 0 {
        return Err(Unserved::Malformed);
    }
    if command != CONNECT {
        return Err(Unserved::Command);
    }
    match address_type {
        NAME => {}
        IPV4 | IPV6 => return Err(Unserved::AddressType),
        _ => return Err(Unserved::Malformed),
    }
    let Some((&length, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let length = usize::from(length);
    let (Some(name), Some(&[high, low])) = (rest.get(..length), rest.get(length..length + 2))
    else {
        return Ok(None);
    };
    let name = std::str::from_utf8(name).map_err(|_| Unserved::Malformed)?;
    let address = Address::from_str(name).map_err(Unserved::Foreign)?;
    let port = u16::from_be_bytes([high, low]);
    if port == 0 {
        return Err(Unserved::Malformed);
    }
    Ok(Some((Destination { address, port }, 5 + length + 2)))
}

fn begins_well<T>(bytes: &[u8]) -> Parsed<T> {
    match bytes.first() {
        None | Some(&VERSION) => Ok(None),
        Some(_) => Err(Unserved::Malformed),
    }
}

/// Answers a request; the address that was bound means nothing here. `false`:
/// the client has left.
async fn answer(socket: &mut TcpStream, reply: Reply) -> bool {
    let answer = [VERSION, reply as u8, 0, IPV4, 0, 0, 0, 0, 0, 0];
    socket.write_all(&answer).await.is_ok()
}

impl Reply {
    fn of(error: &OpenError) -> Self {
        match error {
            _ if error.is_denied() => Self::NotAllowed,
            OpenError::NotHere { .. } | OpenError::NoLink { .. } | OpenError::Timeout { .. } => {
                Self::HostUnreachable
            }
            OpenError::Refused(_) => Self::Refused,
            OpenError::NoCredential { .. }
            | OpenError::Overloaded
            | OpenError::Shutdown
            | OpenError::RelayRefused { .. }
            | OpenError::SessionClosed(_) => Self::Failed,
        }
    }
}

impl Unserved {
    /// What the client is told; `None` when it was told already.
    fn reply(&self) -> Option<Reply> {
        match self {
            Self::Malformed => Some(Reply::Failed),
            Self::Authentication => None,
            Self::Command => Some(Reply::CommandNotSupported),
            Self::AddressType => Some(Reply::AddressTypeNotSupported),
            Self::Foreign(_) => Some(Reply::NotAllowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connect(name: &str, port: u16) -> Vec<u8> {
        let mut bytes = vec![VERSION, CONNECT, 0, NAME, u8::try_from(name.len()).unwrap()];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes
    }

    #[test]
    fn requests() {
        let pump = "pump-7.factory.device.fairway.internal";
        let good = connect(pump, 9100);
        let (to, length) = request(&good).unwrap().unwrap();
        assert_eq!((to.address.to_string(), to.port), (pump.to_owned(), 9100));
        assert_eq!(length, good.len());
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            request(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, 4), Unserved::Malformed);
        assert_eq!(changed(1, 2), Unserved::Command);
        assert_eq!(changed(2, 1), Unserved::Malformed);
        assert_eq!(changed(3, IPV4), Unserved::AddressType);
        assert_eq!(changed(3, IPV6), Unserved::AddressType);
        assert_eq!(changed(3, 9), Unserved::Malformed);
        assert!(matches!(changed(5, b' '), Unserved::Foreign(_)));
        assert_eq!(request(&connect(pump, 0)), Err(Unserved::Malformed));
        for foreign in ["example.com", "127.0.0.1", "", "fairway.internal"] {
            let refused = request(&connect(foreign, 80)).unwrap_err();
            assert!(matches!(refused, Unserved::Foreign(_)), "{foreign}");
            assert_eq!(refused.reply(), Some(Reply::NotAllowed));
        }
    }

    #[test]
    fn greetings() {
        assert_eq!(greeting(&[5, 1, 0]), Ok(Some((true, 3))));
        assert_eq!(greeting(&[5, 2, 2, 0, 9]), Ok(Some((true, 4))));
        assert_eq!(greeting(&[5, 1, 2]), Ok(Some((false, 3))));
        assert_eq!(greeting(&[5, 0]), Err(Unserved::Malformed));
        assert_eq!(greeting(&[4]), Err(Unserved::Malformed));
        assert_eq!(greeting(&[5, 3, 0]), Ok(None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // The interesting ones begin right.
            for bytes in [bytes.clone(), [&[5, 1, 0, 3], &bytes[..]].concat()] {
                let lengths = [
                    greeting(&bytes).map(|found| found.map(|(_, length)| length)),
                    request(&bytes).map(|found| found.map(|(_, length)| length)),
                ];
                for length in lengths {
                    match length {
                        Ok(Some(length)) => prop_assert!(length <= bytes.len() && length <= SAID_MAX),
                        // `next` waits for more, which must be able to come.
                        Ok(None) => prop_assert!(bytes.len() < SAID_MAX),
                        Err(_) => {}
                    }
                }
            }
        }

        #[test]
        fn a_part_of_a_request_waits_for_the_rest(cut in 0_usize..46, more in any::<[u8; 3]>()) {
            let whole = connect("pump-7.factory.device.fairway.internal", 9100);
            prop_assert_eq!(request(&whole[..cut.min(whole.len() - 1)]), Ok(None));
            let with_data = [&whole[..], &more].concat();
            let (_, length) = request(&with_data).unwrap().unwrap();
            prop_assert_eq!(length, whole.len());
        }
    }
}
