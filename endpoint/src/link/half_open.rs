//! Counting accepted links whose dialler has not shown who they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::limits::{HALF_OPEN_LINKS_MAX, HALF_OPEN_PER_ADDRESS_MAX};
use crate::node::lock;

/// How many half-open links there are, in all and from each address: one who
/// floods fills their own share and not the others'.
#[derive(Clone, Debug, Default)]
pub(crate) struct HalfOpenLinks(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One half-open link; counted while it lives.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    links: HalfOpenLinks,
    from: IpAddr,
}

impl HalfOpenLinks {
    /// Counts a link from `from`; `None` when there are too many.
    pub(crate) fn admit(&self, from: IpAddr) -> Option<HalfOpen> {
        let mut by_address = lock(&self.0);
        if by_address.values().sum::<usize>() >= HALF_OPEN_LINKS_MAX {
            return None;
        }
        let count = by_address.entry(from).or_default();
        if *count >= HALF_OPEN_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(HalfOpen {
            links: self.clone(),
            from,
        })
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut by_address = lock(&self.links.0);
        if let Some(count) = by_address.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> IpAddr {
        let [high, low] = last.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    #[test]
    fn one_address_fills_its_own_share_only() {
        let links = HalfOpenLinks::default();
        let flood: Vec<_> = (0..1_000).filter_map(|_| links.admit(address(1))).collect();
        assert_eq!(flood.len(), HALF_OPEN_PER_ADDRESS_MAX);
        let other = links.admit(address(2));
        assert!(other.is_some());
        drop(flood);
        assert!(links.admit(address(1)).is_some());
        assert_eq!(lock(&links.0).len(), 1);
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let links = HalfOpenLinks::default();
        let flood: Vec<_> = (0..10_000)
            .filter_map(|n| links.admit(address(n)))
            .collect();
        assert_eq!(flood.len(), HALF_OPEN_LINKS_MAX);
    }
}
