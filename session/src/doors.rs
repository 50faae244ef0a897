//! What an endpoint offers: which port under which of its names leads where.

use std::collections::BTreeMap;

use fairway_identity::{Address, Label};
use fairway_policy::Target;

use crate::limits::DOORS_MAX;

/// One thing on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The Service (workload) or the service's name in the device's config.
    pub service: String,
    /// What policies call it: the pod's port, or the device's service.
    pub target: Target,
    /// Where to deliver: the pod's port on loopback; for a device the port
    /// under which its config offers the service.
    pub local_port: u16,
}

/// All doors of an endpoint, by the name that was dialled and the port asked
/// for: two Services of one pod may give the same port different meanings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    doors: BTreeMap<(Address, u16), Door>,
}

/// There are more doors than an endpoint can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint can offer at most {DOORS_MAX} ports")]
pub struct DoorsFull;

impl Doors {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// A Service's port, which leads to `target_port` of the pod.
    ///
    /// # Errors
    /// Beyond the limit; what is there stays.
    pub fn add_service(
        &mut self,
        namespace: Label,
        service: Label,
        port: u16,
        target_port: u16,
    ) -> Result<(), DoorsFull> {
        let door = Door {
            service: service.as_str().to_owned(),
            target: Target::Port(target_port),
            local_port: target_port,
        };
        self.add(Address::Service { namespace, service }, port, door)
    }

    /// A service that a device's own config offers under `port`.
    ///
    /// # Errors
    /// Beyond the limit; what is there stays.
    pub fn add_device_service(
        &mut self,
        namespace: Label,
        device: Label,
        service: &str,
        port: u16,
    ) -> Result<(), DoorsFull> {
        let door = Door {
            service: service.to_owned(),
            target: Target::Service(service.to_owned()),
            local_port: port,
        };
        self.add(
            Address::Device {
                namespace,
                name: device,
            },
            port,
            door,
        )
    }

    /// What is behind `port` under the name that was dialled. A pod dialled by
    /// its own name (headless Service) offers what its Service does.
    pub fn find(&self, dialled: &Address, port: u16) -> Option<&Door> {
        let name = match dialled {
            Address::Pod {
                namespace, service, ..
            } => Address::Service {
                namespace: namespace.clone(),
                service: service.clone(),
            },
            Address::Device { .. } | Address::Service { .. } => dialled.clone(),
            Address::Authority | Address::Relay => return None,
        };
        self.doors.get(&(name, port))
    }

    /// All doors, in order of name and port.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, u16, &Door)> {
        self.doors
            .iter()
            .map(|((address, port), door)| (address, *port, door))
    }

    fn add(&mut self, address: Address, port: u16, door: Door) -> Result<(), DoorsFull> {
        if self.doors.len() >= DOORS_MAX && !self.doors.contains_key(&(address.clone(), port)) {
            return Err(DoorsFull);
        }
        self.doors.insert((address, port), door);
        Ok(())
    }
}
