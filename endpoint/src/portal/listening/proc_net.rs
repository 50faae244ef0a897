//! `/proc/net/tcp` and `tcp6`: right everywhere, but slow, since the kernel
//! walks every connection of the machine to write them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Addresses that `port` is listened on, from the files below `proc_net`.
pub(super) fn listeners(proc_net: &Path, port: u16) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        match std::fs::read_to_string(proc_net.join(table)) {
            Ok(text) => found.extend(parse(&text, port)),
            // A kernel without IPv6 has no tcp6; one without tcp is no Linux.
            Err(e) if table == "tcp6" && e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Addresses of the sockets in state LISTEN on `port` (proc(5), `/proc/net/tcp`).
fn parse(table: &str, port: u16) -> impl Iterator<Item = IpAddr> + '_ {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(parse(&table, 8080).count(), 0, "{line}");
        }
    }
}
