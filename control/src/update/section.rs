//! The state of an endpoint, cut into sections that change one by one.

use std::collections::{BTreeMap, BTreeSet};

use fairway_identity::proof::TicketId;
use fairway_identity::{Address, Label, RelayAddress, RevocationList, UnixSeconds};
use fairway_policy::PolicySet;
use minicbor::bytes::ByteArray;
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

use super::revocation::WireRevocations;
use crate::limits::{
    DOORS_MAX, NAMES_MAX, RELAYS_MAX, SERVICE_NAME_MAX, SERVICES_MAX, TICKETS_MAX, TRUST_SET_MAX,
};
use crate::policy::WirePolicies;
use crate::wire::{Violation, at_most};

/// Everything that the authority tells one endpoint.
///
/// The default is the state of an endpoint that was told nothing: no policy
/// (everything is denied), no doors, not ready.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    /// The newest trust set, signed by the root; empty: not told.
    pub trust_set: Vec<u8>,
    /// The policies that concern this endpoint as callee.
    pub policies: PolicySet,
    /// The revocations that may concern its peers.
    pub revocations: RevocationList,
    /// What a workload offers: the ports of the Services that its pod backs.
    pub doors: Vec<Door>,
    /// Whether the pod is Ready, so that its names may be registered.
    pub ready: bool,
    /// The relays to hold links to, on the ordinary network.
    pub relays: Vec<RelayAddress>,
    /// The names to register there.
    pub names: Vec<Address>,
    /// A credential issued before this time is stale (an attribute or Service
    /// changed): renew it now rather than at its time.
    pub renew_issued_before: Option<UnixSeconds>,
    /// The services that a device may offer, of those that its own config
    /// names; `None`: all of them.
    pub services: Option<Vec<String>>,
    /// For relays: the tickets that have not expired.
    pub tickets: BTreeSet<TicketId>,
}

/// One port of one Service, and where it leads in the pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Door {
    /// The Service, in the pod's namespace.
    #[cbor(n(0), with = "crate::wire::text")]
    pub service: Label,
    /// The Service's port, which callers use.
    #[n(1)]
    pub port: u16,
    /// The pod's port, which policies speak of and which is delivered to.
    #[n(2)]
    pub target_port: u16,
}

/// Which parts of a [`State`] an update touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changed {
    /// `State::trust_set`.
    pub trust_set: bool,
    /// `State::policies`.
    pub policies: bool,
    /// `State::revocations`.
    pub revocations: bool,
    /// `State::doors`.
    pub doors: bool,
    /// `State::ready`.
    pub ready: bool,
    /// `State::relays`.
    pub relays: bool,
    /// `State::names`.
    pub names: bool,
    /// `State::renew_issued_before`.
    pub renew_issued_before: bool,
    /// `State::services`.
    pub services: bool,
    /// `State::tickets`.
    pub tickets: bool,
}

/// A section's id on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Section {
    TrustSet = 0,
    Policies = 1,
    Revocations = 2,
    Doors = 3,
    Ready = 4,
    Relays = 5,
    Names = 6,
    RenewIssuedBefore = 7,
    Services = 8,
    Tickets = 9,
}

impl Section {
    pub(super) const ALL: [Self; 10] = [
        Self::TrustSet,
        Self::Policies,
        Self::Revocations,
        Self::Doors,
        Self::Ready,
        Self::Relays,
        Self::Names,
        Self::RenewIssuedBefore,
        Self::Services,
        Self::Tickets,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TrustSet => "trust_set",
            Self::Policies => "policies",
            Self::Revocations => "revocations",
            Self::Doors => "doors",
            Self::Ready => "ready",
            Self::Relays => "relays",
            Self::Names => "names",
            Self::RenewIssuedBefore => "renew_issued_before",
            Self::Services => "services",
            Self::Tickets => "tickets",
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| *section as u8 == id)
    }

    /// The section's bytes, or which rule it breaks.
    pub(super) fn write(self, state: &State) -> Result<Vec<u8>, Violation> {
        match self {
            Self::TrustSet => {
                at_most(&state.trust_set, TRUST_SET_MAX, "trust set is too large")?;
                Ok(state.trust_set.clone())
            }
            Self::Policies => {
                // Reading it is the check: what we could not read, we do not send.
                let wire = WirePolicies::from(&state.policies);
                PolicySet::try_from(wire.clone())
                    .map_err(|_| Violation("a policy breaks a bound of the wire"))?;
                Ok(cbor(&wire))
            }
            Self::Revocations => {
                let wire = WireRevocations::from(&state.revocations);
                wire.check()?;
                Ok(cbor(&wire))
            }
            Self::Doors => check_doors(&state.doors).map(|()| cbor(&state.doors)),
            Self::Ready => Ok(cbor(&state.ready)),
            Self::Relays => {
                at_most(&state.relays, RELAYS_MAX, "too many relays")?;
                Ok(cbor(&texts(&state.relays)))
            }
            Self::Names => {
                at_most(&state.names, NAMES_MAX, "too many names")?;
                Ok(cbor(&texts(&state.names)))
            }
            Self::RenewIssuedBefore => Ok(cbor(&state.renew_issued_before.map(|t| t.0))),
            Self::Services => check_services(&state.services).map(|()| cbor(&state.services)),
            Self::Tickets => {
                if state.tickets.len() > TICKETS_MAX {
                    return Err(Violation("too many tickets"));
                }
                let ids: Vec<ByteArray<16>> = state.tickets.iter().map(|id| id.0.into()).collect();
                Ok(cbor(&ids))
            }
        }
    }

    /// Puts the section into `state`; on an error `state` is as before.
    pub(super) fn read(self, bytes: &[u8], state: &mut State) -> Result<(), Unreadable> {
        match self {
            Self::TrustSet => {
                at_most(bytes, TRUST_SET_MAX, "trust set is too large")?;
                state.trust_set = bytes.to_vec();
            }
            Self::Policies => state.policies = whole::<WirePolicies>(bytes)?.try_into()?,
            Self::Revocations => state.revocations = whole::<WireRevocations>(bytes)?.try_into()?,
            Self::Doors => {
                let doors: Vec<Door> = whole(bytes)?;
                check_doors(&doors)?;
                state.doors = doors;
            }
            Self::Ready => state.ready = whole(bytes)?,
            Self::Relays => {
                let texts: Vec<String> = whole(bytes)?;
                at_most(&texts, RELAYS_MAX, "too many relays")?;
                let relays: Result<Vec<RelayAddress>, _> =
                    texts.iter().map(|t| t.parse()).collect();
                state.relays = relays.map_err(|_| Violation("a relay's address cannot be read"))?;
            }
            Self::Names => {
                let texts: Vec<String> = whole(bytes)?;
                at_most(&texts, NAMES_MAX, "too many names")?;
                let names: Result<Vec<Address>, _> =
                    texts.iter().map(|text| text.parse()).collect();
                state.names = names.map_err(|_| Violation("a name is no Fairway address"))?;
            }
            Self::RenewIssuedBefore => {
                state.renew_issued_before = whole::<Option<u64>>(bytes)?.map(UnixSeconds);
            }
            Self::Services => {
                let services = whole(bytes)?;
                check_services(&services)?;
                state.services = services;
            }
            Self::Tickets => {
                let ids: Vec<ByteArray<16>> = whole(bytes)?;
                at_most(&ids, TICKETS_MAX, "too many tickets")?;
                state.tickets = ids.into_iter().map(|id| TicketId(*id)).collect();
            }
        }
        Ok(())
    }

    /// What an endpoint does when the section cannot be read: less than
    /// before, never more.
    pub(super) fn fail_closed(self, state: &mut State) {
        match self {
            // Without the revocations a policy must not admit anybody either.
            Self::Policies | Self::Revocations => state.policies = PolicySet::default(),
            Self::Doors => state.doors.clear(),
            Self::Ready => state.ready = false,
            Self::Names => state.names.clear(),
            Self::Services => state.services = Some(Vec::new()),
            Self::Tickets => state.tickets.clear(),
            // What we had was good; these only help to reach and to be reached.
            Self::TrustSet | Self::Relays | Self::RenewIssuedBefore => {}
        }
    }

    pub(super) fn mark(self, changed: &mut Changed) {
        match self {
            Self::TrustSet => changed.trust_set = true,
            Self::Policies => changed.policies = true,
            Self::Revocations => changed.revocations = true,
            Self::Doors => changed.doors = true,
            Self::Ready => changed.ready = true,
            Self::Relays => changed.relays = true,
            Self::Names => changed.names = true,
            Self::RenewIssuedBefore => changed.renew_issued_before = true,
            Self::Services => changed.services = true,
            Self::Tickets => changed.tickets = true,
        }
    }
}

/// Sections by id, each in its own byte string so that one that cannot be
/// read leaves the others readable. Ids of a newer authority are skipped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sections(pub(super) BTreeMap<Section, Vec<u8>>);

impl Sections {
    pub(super) fn size(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl<C> Encode<C> for Sections {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.map(self.0.len() as u64)?;
        for (section, bytes) in &self.0 {
            e.u8(*section as u8)?.bytes(bytes)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Sections {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        let error = |text| decode::Error::message(text).at(at);
        let count = d.map()?.ok_or_else(|| error("sections without a count"))?;
        let mut sections = BTreeMap::new();
        for _ in 0..count {
            let (id, bytes) = (d.u8()?, d.bytes()?);
            let Some(section) = Section::from_id(id) else {
                continue;
            };
            if sections.insert(section, bytes.to_vec()).is_some() {
                return Err(error("a section comes twice"));
            }
        }
        Ok(Self(sections))
    }
}

/// Why a section could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("malformed")]
    Malformed(#[from] decode::Error),
    #[error("{0}")]
    Rule(#[from] Violation),
    #[error("{0}")]
    Policy(#[from] crate::policy::PolicyError),
}

fn cbor<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into a Vec cannot fail")
}

fn whole<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, Unreadable> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.decode()?;
    if decoder.position() != bytes.len() {
        return Err(Violation("bytes after the end of a section").into());
    }
    Ok(value)
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn check_services(services: &Option<Vec<String>>) -> Result<(), Violation> {
    let Some(services) = services else {
        return Ok(());
    };
    at_most(services, SERVICES_MAX, "too many services")?;
    if services
        .iter()
        .any(|name| name.is_empty() || name.len() > SERVICE_NAME_MAX)
    {
        return Err(Violation("a service's name is too short or too long"));
    }
    Ok(())
}

fn check_doors(doors: &[Door]) -> Result<(), Violation> {
    at_most(doors, DOORS_MAX, "too many doors")?;
    if doors
        .iter()
        .any(|door| door.port == 0 || door.target_port == 0)
    {
        return Err(Violation("a door has no port"));
    }
    Ok(())
}
