//! Where names lead.

use std::collections::HashMap;

use fairway_identity::Address;

use super::LinkId;
use crate::limits::LINKS_PER_NAME_MAX;

/// Which links have registered which names.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// In order of registration, the newest last.
    links: HashMap<Address, Vec<LinkId>>,
}

/// The name has as many links as it may.
#[derive(Debug)]
pub(super) struct NameFull;

impl Names {
    /// Registers `name` for `link`; again is the same as once.
    pub(super) fn add(&mut self, name: &Address, link: LinkId) -> Result<(), NameFull> {
        let links = self.links.entry(name.clone()).or_default();
        if links.contains(&link) {
            return Ok(());
        }
        if links.len() >= LINKS_PER_NAME_MAX {
            return Err(NameFull);
        }
        links.push(link);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &Address, link: LinkId) {
        if let Some(links) = self.links.get_mut(name) {
            links.retain(|&other| other != link);
            if links.is_empty() {
                self.links.remove(name);
            }
        }
    }

    /// How many names lead somewhere.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Picks a link for `name`. `load` says how loaded a link is, or `None`
    /// for one that must not be picked.
    ///
    /// A device or a named pod is one thing: its newest link is it, an older
    /// one is likely dead and not yet found out. Of a Service any pod will do:
    /// the least loaded, and among equals the one registered last.
    pub(super) fn pick(
        &self,
        name: &Address,
        load: impl Fn(LinkId) -> Option<usize>,
    ) -> Option<LinkId> {
        let links = self.links.get(name)?.iter().rev().copied();
        match name {
            Address::Device { .. } | Address::Pod { .. } | Address::Relay => {
                links.into_iter().find(|&link| load(link).is_some())
            }
            Address::Service { .. } | Address::Authority => links
                .filter_map(|link| Some((load(link)?, link)))
                .min_by_key(|&(load, _)| load)
                .map(|(_, link)| link),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_service_goes_to_the_least_loaded_link() {
        let collector = name("collector.factory.svc.fairway.internal");
        let mut names = Names::default();
        for link in 1..=3 {
            names.add(&collector, LinkId(link)).unwrap();
        }
        let loads = |link: LinkId| [None, Some(5), Some(2), Some(9)][link.0 as usize];
        assert_eq!(names.pick(&collector, loads), Some(LinkId(2)));
        let loads = |link: LinkId| [None, Some(5), None, Some(9)][link.0 as usize];
        assert_eq!(names.pick(&collector, loads), Some(LinkId(1)));
        assert_eq!(names.pick(&collector, |_| None), None);
    }

    #[test]
    fn a_device_is_where_it_registered_last() {
        let pump = name("pump-7.factory.device.fairway.internal");
        let mut names = Names::default();
        names.add(&pump, LinkId(1)).unwrap();
        names.add(&pump, LinkId(2)).unwrap();
        names.add(&pump, LinkId(1)).unwrap();
        let loads = |link: LinkId| [None, Some(0), Some(9)][link.0 as usize];
        assert_eq!(names.pick(&pump, loads), Some(LinkId(2)));
        names.remove(&pump, LinkId(2));
        assert_eq!(names.pick(&pump, loads), Some(LinkId(1)));
        names.remove(&pump, LinkId(1));
        assert_eq!((names.pick(&pump, loads), names.len()), (None, 0));
    }

    #[test]
    fn a_name_has_a_bounded_number_of_links() {
        let collector = name("collector.factory.svc.fairway.internal");
        let mut names = Names::default();
        for link in 0..LINKS_PER_NAME_MAX as u64 {
            names.add(&collector, LinkId(link)).unwrap();
        }
        names.add(&collector, LinkId(0)).unwrap();
        assert!(names.add(&collector, LinkId(u64::MAX)).is_err());
    }
}
