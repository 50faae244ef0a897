//! All facts about the cluster that distribution and revocation need. It holds
//! no client: [`super::feed`] tells it what changed, and it answers whom that
//! touches.
//!
//! ```text
//! ChannelPolicy --selects--> pod, DeviceIdentity      (own namespace)
//! Service       --selects--> pod                      (own namespace)
//! ServiceAccount <-runs as-- pod
//! Record        --revokes--> pod, DeviceIdentity      (by UID)
//! EndpointSlices of the relays, trust set -> everybody
//! ```
//!
//! Reverse lookups go by namespace: a change touches the endpoints of one or a
//! few namespaces, never all, unless it really concerns all.
//!
//! What has to be *done* about a change (a device is gone: revoke it) is kept
//! as [`Errand`]s until the keeper of revocations takes them.

mod pods;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use fairway_control::limits::TICKETS_MAX;
use fairway_identity::proof::TicketId;
use fairway_identity::{Label, RelayAddress, UnixSeconds, VerifiedTrustSet};
use fairway_policy::CallerRule;

use super::facts::{DeviceFacts, PodFacts, PolicyFacts, ServiceFacts, TicketFacts};
use crate::limits;
use crate::names::Install;
use crate::revoke::{Entry, Record};

/// The facts.
#[derive(Debug)]
pub struct Index {
    pub(super) install: Install,
    /// Addresses at which devices reach the relays from outside.
    pub(super) outside_relays: Vec<RelayAddress>,
    pub(super) trust: Option<VerifiedTrustSet>,
    pub(super) record: Record,
    /// Rises whenever what is revoked changes; acknowledgements go by it.
    pub(super) revision: u64,
    /// Entries in force, by key, and the revision that brought each.
    effective: BTreeMap<String, u64>,
    pods: BTreeMap<String, PodEntry>,
    /// UIDs of pods by namespace.
    pods_in: BTreeMap<String, BTreeSet<String>>,
    services: BTreeMap<String, BTreeMap<String, ServiceFacts>>,
    devices: BTreeMap<Name, DeviceFacts>,
    pub(super) policies: BTreeMap<String, BTreeMap<String, PolicyFacts>>,
    relays: BTreeMap<String, Vec<RelayAddress>>,
    tickets: BTreeMap<Name, TicketFacts>,
    accounts: BTreeSet<Name>,
    issued: BTreeMap<String, IssuedNote>,
    synced: BTreeSet<Source>,
    errands: BTreeMap<String, Errand>,
}

/// Namespace and name.
pub type Name = (String, String);

/// Kinds of objects that have to be known before the index speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// ServiceAccounts.
    Accounts,
    /// DeviceIdentities.
    Devices,
    /// ChannelPolicies.
    Policies,
    /// EndpointSlices of the relays.
    Relays,
    /// The record of revocations.
    Revocations,
}

impl Source {
    const ALL: [Self; 7] = [
        Self::Pods,
        Self::Services,
        Self::Accounts,
        Self::Devices,
        Self::Policies,
        Self::Relays,
        Self::Revocations,
    ];
}

/// Whom a change touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Touched {
    /// Nobody.
    #[default]
    Nobody,
    /// One endpoint, by namespace and UID.
    One(String, String),
    /// The endpoints of these namespaces.
    Namespaces(BTreeSet<String>),
    /// Everybody.
    All,
}

/// Something to be done about a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Errand {
    /// A device is gone.
    DeviceGone(DeviceFacts),
    /// A pod is gone.
    PodGone(PodFacts),
    /// A pod's ServiceAccount may be gone.
    AccountGone(PodFacts),
    /// A pod backs fewer Services than its credential may say.
    ServicesLost(PodFacts),
    /// A device has to be looked at.
    DeviceChanged(DeviceFacts),
}

#[derive(Debug)]
struct PodEntry {
    facts: PodFacts,
    backs: Vec<Label>,
    /// When `backs` last changed while the pod was known.
    changed_at: Option<UnixSeconds>,
}

/// What this replica has certified of a pod.
#[derive(Debug)]
struct IssuedNote {
    services: Vec<Label>,
    issued_at: UnixSeconds,
    expires: UnixSeconds,
}

/// The Services that a pod backs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// Those that its credential lists, in order of name.
    pub services: Vec<Label>,
    /// Those that do not fit.
    pub left_out: Vec<String>,
    /// Whether one that is listed is headless, so that the pod can be dialled
    /// by its own name.
    pub headless: bool,
}

impl Index {
    /// An index that knows nothing yet.
    pub fn new(install: Install, outside_relays: Vec<RelayAddress>) -> Self {
        Self {
            install,
            outside_relays,
            trust: None,
            record: Record::default(),
            revision: 0,
            effective: BTreeMap::new(),
            pods: BTreeMap::new(),
            pods_in: BTreeMap::new(),
            services: BTreeMap::new(),
            devices: BTreeMap::new(),
            policies: BTreeMap::new(),
            relays: BTreeMap::new(),
            tickets: BTreeMap::new(),
            accounts: BTreeSet::new(),
            issued: BTreeMap::new(),
            synced: BTreeSet::new(),
            errands: BTreeMap::new(),
        }
    }

    /// Whether everything has been listed at least once and there is a trust
    /// set. Before, no endpoint is told anything: half of the policies would
    /// be worse than those that it has.
    pub fn is_ready(&self) -> bool {
        self.trust.is_some()
            && Source::ALL
                .iter()
                .all(|source| self.synced.contains(source))
    }

    /// What has not been listed yet.
    pub fn missing(&self) -> Vec<Source> {
        Source::ALL
            .into_iter()
            .filter(|source| !self.synced.contains(source))
            .collect()
    }

    /// What has to be done; each errand is given out once.
    pub fn take_errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands).into_values().collect()
    }

    /// Puts back what could not be done, unless something newer is known.
    pub fn return_errand(&mut self, errand: Errand) {
        self.errands
            .entry(errand.uid().to_owned())
            .or_insert(errand);
    }

    /// A newer trust set.
    pub fn set_trust(&mut self, trust: VerifiedTrustSet) -> Touched {
        let newer = self
            .trust
            .as_ref()
            .is_none_or(|known| known.version() < trust.version());
        if !newer {
            return Touched::Nobody;
        }
        self.trust = Some(trust);
        Touched::All
    }

    /// Version of the trust set, if there is one.
    pub fn trust_version(&self) -> Option<u64> {
        self.trust.as_ref().map(VerifiedTrustSet::version)
    }

    /// Credentials issued before this are void, by the trust set.
    pub fn floor(&self) -> UnixSeconds {
        self.trust
            .as_ref()
            .map(|trust| trust.trust_set().revocation_floor)
            .unwrap_or_default()
    }

    // --- devices ------------------------------------------------------------

    /// The device of this name.
    pub fn device(&self, name: &Name) -> Option<&DeviceFacts> {
        self.devices.get(name)
    }

    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceFacts> {
        self.devices.values()
    }

    /// All DeviceIdentities, as listed.
    pub fn reset_devices(&mut self, devices: Vec<DeviceFacts>) -> Touched {
        let mut before = std::mem::take(&mut self.devices);
        for device in devices {
            let name = (device.namespace.clone(), device.name.clone());
            if let Some(known) = before.remove(&name)
                && known.uid != device.uid
            {
                self.errand(Errand::DeviceGone(known));
            }
            self.errand(Errand::DeviceChanged(device.clone()));
            self.devices.insert(name, device);
        }
        for gone in before.into_values() {
            self.errand(Errand::DeviceGone(gone));
        }
        self.synced.insert(Source::Devices);
        Touched::All
    }

    /// A DeviceIdentity is new or changed.
    pub fn apply_device(&mut self, device: DeviceFacts) -> Touched {
        let touched = Touched::One(device.namespace.clone(), device.uid.clone());
        let name = (device.namespace.clone(), device.name.clone());
        match self.devices.insert(name, device.clone()) {
            Some(known) if known == device => return Touched::Nobody,
            Some(known) if known.uid != device.uid => self.errand(Errand::DeviceGone(known)),
            Some(_) | None => {}
        }
        self.errand(Errand::DeviceChanged(device));
        touched
    }

    /// A DeviceIdentity is gone.
    pub fn delete_device(&mut self, name: &Name) -> Touched {
        let Some(device) = self.devices.remove(name) else {
            return Touched::Nobody;
        };
        let touched = Touched::One(device.namespace.clone(), device.uid.clone());
        self.errand(Errand::DeviceGone(device));
        touched
    }

    // --- tickets ------------------------------------------------------------

    /// All EnrollmentTickets, as listed. Without them relays are told of none,
    /// which holds nothing else up.
    pub fn reset_tickets(&mut self, tickets: BTreeMap<Name, TicketFacts>) -> Touched {
        self.tickets = tickets;
        self.relays_and_front()
    }

    /// An EnrollmentTicket is new or changed; `None`: it is gone.
    pub fn apply_ticket(&mut self, name: Name, ticket: Option<TicketFacts>) -> Touched {
        let before = match ticket {
            Some(ticket) => self.tickets.insert(name, ticket),
            None => self.tickets.remove(&name),
        };
        match before == ticket {
            true => Touched::Nobody,
            false => self.relays_and_front(),
        }
    }

    /// The tickets that relays are told of: those that end last, when there
    /// are more than fit.
    pub(super) fn live_tickets(&self, now: UnixSeconds) -> BTreeSet<TicketId> {
        let live = self.tickets.values().filter(|ticket| ticket.expires > now);
        let mut live: Vec<&TicketFacts> = live.collect();
        live.sort_by_key(|ticket| std::cmp::Reverse(ticket.expires));
        live.truncate(TICKETS_MAX);
        live.iter().map(|ticket| ticket.id).collect()
    }

    fn relays_and_front(&self) -> Touched {
        Touched::Namespaces(BTreeSet::from([self.install.namespace.to_string()]))
    }

    // --- policies, relays, revocations --------------------------------------

    /// All ChannelPolicies, as listed.
    pub fn reset_policies(&mut self, policies: Vec<PolicyFacts>) -> Touched {
        self.policies.clear();
        for policy in policies {
            self.policies
                .entry(policy.namespace.clone())
                .or_default()
                .insert(policy.name.clone(), policy);
        }
        self.synced.insert(Source::Policies);
        Touched::All
    }

    /// A ChannelPolicy is new or changed; `None`: it says nothing (any more).
    pub fn apply_policy(&mut self, name: Name, policy: Option<PolicyFacts>) -> Touched {
        let (namespace, name) = name;
        let policies = self.policies.entry(namespace.clone()).or_default();
        let before = match policy.clone() {
            Some(policy) => policies.insert(name, policy),
            None => policies.remove(&name),
        };
        if policies.is_empty() {
            self.policies.remove(&namespace);
        }
        if before == policy {
            return Touched::Nobody;
        }
        let mut touched = Touched::Namespaces(BTreeSet::from([namespace]));
        for policy in before.iter().chain(&policy) {
            touched = touched.and(callers_of(policy));
        }
        touched
    }

    /// All EndpointSlices of the relays, as listed.
    pub fn reset_relays(&mut self, slices: BTreeMap<String, Vec<RelayAddress>>) -> Touched {
        self.relays = slices;
        self.synced.insert(Source::Relays);
        Touched::All
    }

    /// An EndpointSlice of the relays is new or changed; `None`: gone.
    pub fn apply_relays(&mut self, slice: String, relays: Option<Vec<RelayAddress>>) -> Touched {
        let before = match relays.clone() {
            Some(relays) => self.relays.insert(slice, relays),
            None => self.relays.remove(&slice),
        };
        if before == relays {
            Touched::Nobody
        } else {
            Touched::All
        }
    }

    /// The relays that endpoints in the cluster hold links to.
    pub(super) fn inside_relays(&self) -> Vec<RelayAddress> {
        let relays: BTreeSet<&RelayAddress> = self.relays.values().flatten().collect();
        relays
            .into_iter()
            .take(limits::RELAYS_MAX)
            .cloned()
            .collect()
    }

    /// The record of revocations, as it is now.
    pub fn set_record(&mut self, record: Record, now: UnixSeconds) -> Touched {
        let first = self.synced.insert(Source::Revocations);
        if self.record == record && !first {
            return Touched::Nobody;
        }
        self.record = record;
        self.time_has_passed(now);
        Touched::All
    }

    /// Some entry of the record has become effective, or has ended.
    pub fn time_has_passed(&mut self, now: UnixSeconds) -> Touched {
        let effective = self
            .record
            .iter()
            .filter(|entry| entry.is_effective(now))
            .map(Entry::key);
        let effective: BTreeSet<String> = effective.collect();
        if self.effective.keys().eq(&effective) {
            return Touched::Nobody;
        }
        self.revision += 1;
        self.effective.retain(|key, _| effective.contains(key));
        for key in effective {
            self.effective.entry(key).or_insert(self.revision);
        }
        Touched::All
    }

    /// Since which revision an entry has been in force; `None`: it is not.
    pub(super) fn effective_since(&self, entry: &Entry) -> Option<u64> {
        self.effective.get(&entry.key()).copied()
    }

    /// The record of revocations.
    pub fn record(&self) -> &Record {
        &self.record
    }

    fn errand(&mut self, errand: Errand) {
        // What is gone stays gone; a UID never comes back.
        match self.errands.get(errand.uid()) {
            Some(Errand::DeviceGone(_) | Errand::PodGone(_)) => {}
            Some(Errand::AccountGone(_) | Errand::ServicesLost(_) | Errand::DeviceChanged(_))
            | None => {
                self.errands.insert(errand.uid().to_owned(), errand);
            }
        }
    }
}

impl Errand {
    /// UID of the object.
    pub fn uid(&self) -> &str {
        match self {
            Self::DeviceGone(device) | Self::DeviceChanged(device) => &device.uid,
            Self::PodGone(pod) | Self::AccountGone(pod) | Self::ServicesLost(pod) => &pod.uid,
        }
    }
}

impl Touched {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, other) | (other, Self::Nobody) => other,
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::One(a, b), Self::One(c, d)) if a == c && b == d => Self::One(a, b),
            (one, other) => {
                let mut namespaces = one.into_namespaces();
                namespaces.extend(other.into_namespaces());
                Self::Namespaces(namespaces)
            }
        }
    }

    fn into_namespaces(self) -> BTreeSet<String> {
        match self {
            Self::Nobody | Self::All => BTreeSet::new(),
            Self::One(namespace, _) => BTreeSet::from([namespace]),
            Self::Namespaces(namespaces) => namespaces,
        }
    }
}

/// The namespaces of a policy's callers: whose revocations concern them
/// changes with it.
fn callers_of(policy: &PolicyFacts) -> Touched {
    let mut touched = Touched::Nobody;
    for rule in &policy.compiled.policy.from {
        let (CallerRule::Devices { namespaces, .. } | CallerRule::Workloads { namespaces, .. }) =
            rule;
        touched = touched.and(if namespaces.is_empty() {
            Touched::All
        } else {
            Touched::Namespaces(namespaces.iter().cloned().collect())
        });
    }
    touched
}
