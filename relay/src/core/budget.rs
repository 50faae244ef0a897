//! What each kind of peer may use, so that one kind cannot starve another.

use fairway_daemon::{Rate, TokenBucket};

use super::Time;

/// A kind of peer. Each has a [`Budget`] of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A pod with a valid credential.
    Workload,
    /// A device with a valid credential.
    Device,
    /// A genuine credential that has expired: it may reach the authority to renew.
    Expired,
    /// No credential, but a ticket: it may reach the authority to enrol.
    Ticket,
    /// Neither: it may reach the authority, for what it is worth.
    Anonymous,
}

/// What all peers of one class may use together, and each of them.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Links at once.
    pub links: usize,
    /// Circuits at once that links of this class opened.
    pub circuits: usize,
    /// Circuits at once on one link, whoever opened them.
    pub circuits_per_link: usize,
    /// How often circuits may be opened, by all together.
    pub opens: Rate,
    /// How often one link may open circuits.
    pub opens_per_link: Rate,
    /// How often one link may register or deregister a name.
    pub names_per_link: Rate,
    /// DATA payload bytes of one circuit, both directions together, in its
    /// whole life. `None`: no limit.
    pub bytes_per_circuit: Option<u64>,
    /// How long a link may last. `None`: no limit.
    pub lifetime: Option<Time>,
}

/// The budgets of all classes.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Of [`Class::Workload`].
    pub workload: Budget,
    /// Of [`Class::Device`].
    pub device: Budget,
    /// Of [`Class::Expired`].
    pub expired: Budget,
    /// Of [`Class::Ticket`].
    pub ticket: Budget,
    /// Of [`Class::Anonymous`].
    pub anonymous: Budget,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 5] = [
        Self::Workload,
        Self::Device,
        Self::Expired,
        Self::Ticket,
        Self::Anonymous,
    ];

    /// A short word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Device => "device",
            Self::Expired => "expired",
            Self::Ticket => "ticket",
            Self::Anonymous => "anonymous",
        }
    }
}

impl Budgets {
    /// The budget of `class`.
    pub fn of(&self, class: Class) -> &Budget {
        match class {
            Class::Workload => &self.workload,
            Class::Device => &self.device,
            Class::Expired => &self.expired,
            Class::Ticket => &self.ticket,
            Class::Anonymous => &self.anonymous,
        }
    }
}

impl Budgets {
    /// The same for a process that can hold only so many connections: each
    /// class gets less in proportion, so that none takes the places of another.
    pub fn fit(mut self, connections: usize) -> Self {
        let all = [
            &mut self.workload,
            &mut self.device,
            &mut self.expired,
            &mut self.ticket,
            &mut self.anonymous,
        ];
        let wanted: usize = all.iter().map(|budget| budget.links).sum();
        if wanted > connections {
            for budget in all {
                budget.links = (budget.links * connections / wanted).max(1);
            }
        }
        self
    }
}

/// What one class uses now.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) links: usize,
    pub(super) circuits: usize,
    opens: TokenBucket,
}

impl Usage {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            links: 0,
            circuits: 0,
            opens: TokenBucket::new(budget.opens),
        }
    }

    /// Takes one circuit out of the budget; `false` when there is none.
    pub(super) fn take_circuit(&mut self, now: Time, budget: &Budget) -> bool {
        let fits = self.circuits < budget.circuits && self.opens.take(now);
        self.circuits += usize::from(fits);
        fits
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::BUDGETS;

    #[test]
    fn with_few_connections_every_class_keeps_its_share() {
        let all = |budgets: super::Budgets| {
            let links = super::Class::ALL.map(|class| budgets.of(class).links);
            (links.iter().sum::<usize>(), links)
        };
        assert_eq!(all(BUDGETS.fit(1 << 20)).1, all(BUDGETS).1);
        let (sum, links) = all(BUDGETS.fit(1_000));
        assert!(sum <= 1_000, "{links:?}");
        assert!(links.iter().all(|&links| links > 20), "{links:?}");
        assert_eq!(all(BUDGETS.fit(0)).1, [1; 5]);
    }
}
