//! Listening sockets by netlink (sock_diag(7)): the kernel looks only where
//! listeners are.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// What the kernel writes at most in one answer to a dump (netlink(7)).
const ANSWER_MAX: usize = 32 * 1024;

/// Answers to read for one question; a namespace with more listeners than fit
/// is treated as one that does not tell.
const ANSWERS_MAX: usize = 64;

/// Where the kernel is asked. A socket of the first question serves the next
/// ones too: making one costs more than a question.
#[derive(Debug, Default)]
pub(super) struct SockDiag(Mutex<Option<Socket>>);

impl SockDiag {
    /// Addresses that `port` is listened on.
    pub(super) fn listeners(&self, port: u16) -> io::Result<Vec<IpAddr>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After an error it is gone, with the answers that may be left in it.
        let socket = match kept.take() {
            Some(socket) => socket,
            None => connect()?,
        };
        let mut found = Vec::new();
        for (family, id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            dump(&socket, family, id, port, &mut found)?;
        }
        *kept = Some(socket);
        Ok(found)
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn dump(
    socket: &Socket,
    family: u8,
    mut id: SocketId,
    port: u16,
    found: &mut Vec<IpAddr>,
) -> io::Result<()> {
    // The kernel leaves out other ports by itself, if it is new enough.
    id.source_port = port;
    socket.send(&question(family, id), 0)?;
    let mut buffer = Vec::with_capacity(ANSWER_MAX);
    for _ in 0..ANSWERS_MAX {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        if read_answer(&buffer, port, found)? {
            return Ok(());
        }
    }
    Err(io::Error::other("the dump of listening sockets has no end"))
}

fn question(family: u8, socket_id: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the messages of one answer; whether the last one was among them.
fn read_answer(mut bytes: &[u8], port: u16, found: &mut Vec<IpAddr>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = &response.header.socket_id;
                if id.source_port == port {
                    found.push(id.source_address);
                }
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => return Err(io::Error::other("an answer to another question")),
        }
        // Messages are aligned to four bytes (netlink(3), NLMSG_ALIGN).
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length.max(4)..).unwrap_or_default();
    }
    Ok(false)
}
