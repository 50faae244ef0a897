//! Who listens where in this network namespace, read from `/proc/net/tcp`.
//!
//! An app that listens on the pod's address can be reached without Fairway and
//! would then believe a forged `fairway-peer`. So the sidecar delivers only to
//! ports whose listeners are all on loopback (design: "No way around it").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

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

/// The listening sockets of a network namespace.
#[derive(Debug, Clone)]
pub struct ListenTable {
    proc_net: PathBuf,
}

impl ListenTable {
    /// The table of the caller's own network namespace.
    pub fn of_this_namespace() -> Self {
        Self::at("/proc/net")
    }

    /// A table read from the files `tcp` and `tcp6` below `proc_net`.
    pub fn at(proc_net: impl AsRef<Path>) -> Self {
        Self {
            proc_net: proc_net.as_ref().to_owned(),
        }
    }

    /// How `port` is listened on right now.
    ///
    /// # Errors
    /// When the kernel's table cannot be read: the caller must then refuse to
    /// deliver, since it cannot know.
    pub fn look_up(&self, port: u16) -> std::io::Result<Listening> {
        let mut found = Listening::Nobody;
        for table in ["tcp", "tcp6"] {
            let text = match std::fs::read_to_string(self.proc_net.join(table)) {
                Ok(text) => text,
                // A kernel without IPv6 has no tcp6; one without tcp is no Linux.
                Err(e) if table == "tcp6" && e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for address in listeners(&text, port) {
                if !is_loopback(address) {
                    return Ok(Listening::Exposed(address));
                }
                found = Listening::Loopback;
            }
        }
        Ok(found)
    }
}

/// Addresses of the sockets in state LISTEN on `port` (proc(5), `/proc/net/tcp`).
fn listeners(table: &str, port: u16) -> impl Iterator<Item = IpAddr> + '_ {
    const TCP_LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(move |line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (columns.next()?, columns.next()?, columns.next()?);
        let (address, local_port) = local.split_once(':')?;
        let matches = state == TCP_LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
        matches.then(|| parse_address(address)).flatten()
    })
}

/// The kernel prints each 32-bit word of the address in host byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| {
        let digits = hex.get(i * 8..i * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for i in 0..4 {
                octets[i * 4..i * 4 + 4].copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
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

    #[test]
    fn real_sockets_of_this_process() {
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
        let table = ListenTable::of_this_namespace();
        let port = |l: &TcpListener| l.local_addr().unwrap().port();
        assert_eq!(table.look_up(port(&loopback)).unwrap(), Listening::Loopback);
        let any = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(
            table.look_up(port(&exposed)).unwrap(),
            Listening::Exposed(any)
        );
        let gone = port(&loopback);
        drop(loopback);
        assert_eq!(table.look_up(gone).unwrap(), Listening::Nobody);
    }

    #[test]
    fn words_are_in_host_order() {
        let v4 = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(
            parse_address(&format!("{v4:08X}")),
            Some(Ipv4Addr::LOCALHOST.into())
        );
        let last = u32::from_ne_bytes([0, 0, 0, 1]);
        let v6 = format!("{}{last:08X}", "0".repeat(24));
        assert_eq!(parse_address(&v6), Some(Ipv6Addr::LOCALHOST.into()));
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_loopback("::".parse().unwrap()));
    }

    #[test]
    fn a_line_that_is_not_understood_is_no_listener() {
        for line in [
            "",
            " 0:",
            " 0: zz:1F90 0:0 0A",
            " 0: 0100007F:1F90",
            " 0: 0100007F:XYZ 0:0 0A",
        ] {
            let table = format!("header\n{line}\n");
            assert_eq!(listeners(&table, 8080).count(), 0, "{line}");
        }
    }

    #[test]
    fn an_unreadable_table_is_an_error() {
        assert!(ListenTable::at("/nonexistent").look_up(80).is_err());
    }
}
