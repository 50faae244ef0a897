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
        if links.is_empty() {
            // Most names have one link, and there are very many names.
            links.reserve_exact(1);
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

    /// Whether somebody has registered `name`.
    pub(super) fn contains(&self, name: &Address) -> bool {
        self.links.contains_key(name)
    }

    /// How many names lead somewhere.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Picks a link for `name`. `look` says how each one stands.
    ///
    /// A device or a named pod is one thing: its newest link is it, an older
    /// one is likely dead and not yet found out. Of a Service any pod will do:
    /// the least loaded, and among equals the one registered last. Of one
    /// `instance` of it, it is again the newest link.
    pub(super) fn pick(
        &self,
        name: &Address,
        is_one: bool,
        look: impl Fn(LinkId) -> Fitness,
    ) -> Result<LinkId, Miss> {
        let Some(links) = self.links.get(name) else {
            return Err(Miss::NotHere);
        };
        let is_one = is_one
            || match name {
                Address::Device { .. } | Address::Pod { .. } | Address::Relay => true,
                Address::Service { .. } | Address::Authority => false,
            };
        let (mut best, mut miss) = (None, Miss::OtherInstance);
        for &link in links.iter().rev() {
            match look(link) {
                Fitness::Fit { .. } if is_one => return Ok(link),
                Fitness::Fit { load } => {
                    if best.is_none_or(|(least, _)| load < least) {
                        best = Some((load, link));
                    }
                }
                Fitness::Full => miss = Miss::Full,
                Fitness::Other => {}
            }
        }
        best.map(|(_, link)| link).ok_or(miss)
    }
}

/// How a link stands that has registered a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fitness {
    /// It may be picked; it has so many circuits.
    Fit {
        /// Circuits on it.
        load: usize,
    },
    /// It takes no more for now.
    Full,
    /// It is not who was asked for.
    Other,
}

/// No link could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// Nobody has registered the name.
    NotHere,
    /// Others have, and not the instance asked for.
    OtherInstance,
    /// Whoever has takes no more.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Fitness = Fitness::Full;

    fn fit(load: usize) -> Fitness {
        Fitness::Fit { load }
    }

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
        let loads = |link: LinkId| [FULL, fit(5), fit(2), fit(9)][link.0 as usize];
        assert_eq!(names.pick(&collector, false, loads), Ok(LinkId(2)));
        let loads = |link: LinkId| [FULL, fit(5), FULL, fit(9)][link.0 as usize];
        assert_eq!(names.pick(&collector, false, loads), Ok(LinkId(1)));
        assert_eq!(names.pick(&collector, false, |_| FULL), Err(Miss::Full));
    }

    #[test]
    fn of_one_instance_it_is_the_newest_link() {
        let collector = name("collector.factory.svc.fairway.internal");
        let mut names = Names::default();
        let look = |link: LinkId| [fit(0), fit(5), fit(9), Fitness::Other][link.0 as usize];
        assert_eq!(names.pick(&collector, true, look), Err(Miss::NotHere));
        names.add(&collector, LinkId(3)).unwrap();
        assert_eq!(names.pick(&collector, true, look), Err(Miss::OtherInstance));
        names.add(&collector, LinkId(1)).unwrap();
        names.add(&collector, LinkId(2)).unwrap();
        assert_eq!(names.pick(&collector, true, look), Ok(LinkId(2)));
        let look = |link: LinkId| [FULL, FULL, FULL, Fitness::Other][link.0 as usize];
        assert_eq!(names.pick(&collector, true, look), Err(Miss::Full));
    }

    #[test]
    fn a_device_is_where_it_registered_last() {
        let pump = name("pump-7.factory.device.fairway.internal");
        let mut names = Names::default();
        names.add(&pump, LinkId(1)).unwrap();
        names.add(&pump, LinkId(2)).unwrap();
        names.add(&pump, LinkId(1)).unwrap();
        let loads = |link: LinkId| [FULL, fit(0), fit(9)][link.0 as usize];
        assert_eq!(names.pick(&pump, false, loads), Ok(LinkId(2)));
        names.remove(&pump, LinkId(2));
        assert_eq!(names.pick(&pump, false, loads), Ok(LinkId(1)));
        names.remove(&pump, LinkId(1));
        assert_eq!(names.pick(&pump, false, loads), Err(Miss::NotHere));
        assert_eq!(names.len(), 0);
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
