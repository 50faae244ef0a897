//! Pods, their ServiceAccounts, and what is certified of them.

use std::collections::BTreeSet;

use fairway_identity::{Label, UnixSeconds};

use super::{Errand, Index, IssuedNote, Name, PodEntry, Source, Touched};
use crate::distribute::facts::PodFacts;

impl Index {
    /// The pod with this UID.
    pub fn pod(&self, uid: &str) -> Option<&PodFacts> {
        self.pods.get(uid).map(|entry| &entry.facts)
    }

    /// All pods that are endpoints.
    pub fn pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods.values().map(|entry| &entry.facts)
    }

    /// All pods, as listed.
    pub fn reset_pods(&mut self, pods: Vec<PodFacts>, now: UnixSeconds) -> Touched {
        let listed: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| !listed.contains(uid.as_str()))
            .cloned()
            .collect();
        for uid in gone {
            self.delete_pod(&uid);
        }
        for pod in pods {
            self.apply_pod(pod, now);
        }
        self.synced.insert(Source::Pods);
        self.look_for_lost_accounts();
        Touched::All
    }

    /// A pod is new or changed.
    pub fn apply_pod(&mut self, pod: PodFacts, now: UnixSeconds) -> Touched {
        let touched = Touched::One(pod.namespace.clone(), pod.uid.clone());
        if self
            .pods
            .get(&pod.uid)
            .is_some_and(|known| known.facts == pod)
        {
            return Touched::Nobody;
        }
        let backs = self.backing(&pod.namespace, &pod.labels).services;
        self.pods_in
            .entry(pod.namespace.clone())
            .or_default()
            .insert(pod.uid.clone());
        match self.pods.get_mut(&pod.uid) {
            Some(known) => known.facts = pod.clone(),
            None => {
                let entry = PodEntry {
                    facts: pod.clone(),
                    backs: backs.clone(),
                    changed_at: None,
                };
                self.pods.insert(pod.uid.clone(), entry);
            }
        }
        self.note_backing(&pod.uid, backs, now);
        touched
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, uid: &str) -> Touched {
        let Some(entry) = self.pods.remove(uid) else {
            return Touched::Nobody;
        };
        let pod = entry.facts;
        if let Some(uids) = self.pods_in.get_mut(&pod.namespace) {
            uids.remove(uid);
            if uids.is_empty() {
                self.pods_in.remove(&pod.namespace);
            }
        }
        self.issued.remove(uid);
        let touched = Touched::One(pod.namespace.clone(), pod.uid.clone());
        self.errand(Errand::PodGone(pod));
        touched
    }

    /// This replica has certified that a pod backs `services`.
    pub fn note_issued(
        &mut self,
        uid: &str,
        services: Vec<Label>,
        issued_at: UnixSeconds,
        expires: UnixSeconds,
    ) {
        // Pods whose deletion came before this note would stay for ever.
        self.issued.retain(|_, note| issued_at < note.expires);
        self.issued.insert(
            uid.to_owned(),
            IssuedNote {
                services,
                issued_at,
                expires,
            },
        );
    }

    /// Credentials of a pod issued before this say something else than one
    /// would say now.
    pub(in crate::distribute) fn pod_renew_before(&self, uid: &str) -> Option<UnixSeconds> {
        let entry = self.pods.get(uid)?;
        let differs = |note: &&IssuedNote| note.services != entry.backs;
        let noted = self
            .issued
            .get(uid)
            .filter(differs)
            .map(|note| note.issued_at.plus(1));
        entry.changed_at.max(noted)
    }

    /// All ServiceAccounts, as listed.
    pub fn reset_accounts(&mut self, accounts: BTreeSet<Name>) -> Touched {
        self.accounts = accounts;
        self.synced.insert(Source::Accounts);
        self.look_for_lost_accounts();
        Touched::Nobody
    }

    /// A ServiceAccount is there.
    pub fn apply_account(&mut self, account: Name) -> Touched {
        self.accounts.insert(account);
        Touched::Nobody
    }

    /// A ServiceAccount is gone.
    pub fn delete_account(&mut self, account: &Name) -> Touched {
        self.accounts.remove(account);
        self.look_for_lost_accounts();
        Touched::Nobody
    }

    fn look_for_lost_accounts(&mut self) {
        if !self.synced.contains(&Source::Accounts) || !self.synced.contains(&Source::Pods) {
            return;
        }
        let lost = |pod: &&PodFacts| {
            !self
                .accounts
                .contains(&(pod.namespace.clone(), pod.service_account.clone()))
        };
        let lost: Vec<PodFacts> = self.pods().filter(lost).cloned().collect();
        for pod in lost {
            self.errand(Errand::AccountGone(pod));
        }
    }
}
