//! Services, and which of them a pod backs.

use std::collections::{BTreeMap, BTreeSet};

use fairway_identity::credential::fitting_services;
use fairway_identity::{Label, UnixSeconds};

use super::{Backing, Errand, Index, Name, Source, Touched};
use crate::distribute::facts::ServiceFacts;
use crate::limits;

impl Index {
    /// All Services that select something, as listed.
    pub fn reset_services(&mut self, services: Vec<ServiceFacts>, now: UnixSeconds) -> Touched {
        self.services.clear();
        for service in services {
            self.services
                .entry(service.namespace.clone())
                .or_default()
                .insert(service.name.clone(), service);
        }
        let namespaces: Vec<String> = self.pods_in.keys().cloned().collect();
        // The first listing is no change: what pods backed was not known.
        let first = self.synced.insert(Source::Services);
        for namespace in namespaces {
            self.renote_namespace(&namespace, now, first);
        }
        Touched::All
    }

    /// A Service is new or changed; `None`: it selects nothing (any more).
    pub fn apply_service(
        &mut self,
        name: Name,
        service: Option<ServiceFacts>,
        now: UnixSeconds,
    ) -> Touched {
        let (namespace, name) = name;
        let services = self.services.entry(namespace.clone()).or_default();
        let before = match service.clone() {
            Some(service) => services.insert(name, service),
            None => services.remove(&name),
        };
        if services.is_empty() {
            self.services.remove(&namespace);
        }
        if before == service {
            return Touched::Nobody;
        }
        self.renote_namespace(&namespace, now, false);
        Touched::Namespaces(BTreeSet::from([namespace]))
    }

    /// The Services that a pod of `namespace` with `labels` backs: only from
    /// their selectors, never from what the caller or an EndpointSlice says.
    pub fn backing(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Backing {
        let selecting = || {
            self.services_of(namespace)
                .filter(|service| service.selects(labels))
        };
        let mut left_out: Vec<String> = selecting()
            .skip(limits::SERVICES_PER_POD_MAX)
            .map(|service| service.name.clone())
            .collect();
        let first = selecting().take(limits::SERVICES_PER_POD_MAX);
        let (services, too_long) =
            fitting_services(first.filter_map(|service| Label::new(&service.name).ok()));
        left_out.extend(too_long.iter().map(Label::to_string));
        let headless = selecting().any(|service| {
            service.headless
                && services
                    .iter()
                    .any(|listed| listed.as_str() == service.name)
        });
        Backing {
            services,
            left_out,
            headless,
        }
    }

    /// The Services of a namespace, in order of name.
    pub(in crate::distribute) fn services_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &ServiceFacts> {
        self.services
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    fn renote_namespace(&mut self, namespace: &str, now: UnixSeconds, first: bool) {
        let uids: Vec<String> = self
            .pods_in
            .get(namespace)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for uid in uids {
            let Some(entry) = self.pods.get(&uid) else {
                continue;
            };
            let backs = self.backing(namespace, &entry.facts.labels).services;
            if first {
                let entry = self.pods.get_mut(&uid);
                entry.expect("was there a moment ago").backs = backs;
            } else {
                self.note_backing(&uid, backs, now);
            }
        }
    }

    pub(super) fn note_backing(&mut self, uid: &str, backs: Vec<Label>, now: UnixSeconds) {
        let Some(entry) = self.pods.get_mut(uid) else {
            return;
        };
        if entry.backs == backs {
            return;
        }
        let lost = entry.backs.iter().any(|service| !backs.contains(service));
        entry.backs = backs;
        entry.changed_at = Some(now);
        let facts = entry.facts.clone();
        if lost {
            self.errand(Errand::ServicesLost(facts));
        }
    }
}
