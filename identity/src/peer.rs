//! The one place where a credential becomes a [`VerifiedPeer`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::address::Address;
use crate::credential::{self, CredentialClaims, CredentialError, Form, Serial, Uid};
use crate::limits;
use crate::name::{Label, SpiffeId, Subject};
use crate::time::{Clock, UnixSeconds};
use crate::trust::{Issuer, VerifiedTrustSet};

/// A peer whose credential was checked and whose key the handshake proved.
/// Cheap to clone.
#[derive(Clone)]
pub struct VerifiedPeer {
    proven: Arc<Proven>,
    /// The earlier of the credential's and its issuer's end.
    expires: UnixSeconds,
}

/// What no trust set and no clock can change any more.
struct Proven {
    claims: CredentialClaims,
    form: Form,
    /// The fingerprint of the issuer's key, of which the id is a part.
    signed_by: [u8; 32],
}

impl VerifiedPeer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.proven.claims.id
    }

    /// UID of the object behind it.
    pub fn uid(&self) -> &Uid {
        &self.proven.claims.uid
    }

    /// Signed attributes; empty for a workload, and in the lean form.
    pub fn attributes(&self) -> &BTreeMap<String, String> {
        &self.proven.claims.attributes
    }

    /// Services that the pod backs; empty for a device, and in the lean form.
    pub fn services(&self) -> &[Label] {
        &self.proven.claims.services
    }

    /// Serial of the credential.
    pub fn serial(&self) -> Serial {
        self.proven.claims.serial
    }

    /// When the credential was issued.
    pub fn issued_at(&self) -> UnixSeconds {
        self.proven.claims.issued_at
    }

    /// When the credential ends: its own `exp`, or its issuer's end if that
    /// comes earlier.
    pub fn expires(&self) -> UnixSeconds {
        self.expires
    }

    /// The proven handshake key.
    pub fn handshake_key(&self) -> &[u8; 32] {
        &self.proven.claims.handshake_key
    }

    /// In which form the credential came.
    pub fn form(&self) -> Form {
        self.proven.form
    }

    /// Whether this peer is whom `address` names. A lean credential does not
    /// say what is needed to answer to a Service or a pod, so it never does.
    pub fn answers_to(&self, address: &Address, trust: &VerifiedTrustSet) -> bool {
        let CredentialClaims {
            id, services, pod, ..
        } = &self.proven.claims;
        let set = trust.trust_set();
        if id.trust_domain != set.trust_domain {
            return false;
        }
        let backs = |namespace: &Label, service: &Label| match &id.subject {
            Subject::Workload { namespace: own, .. } => {
                own == namespace && services.contains(service)
            }
            Subject::Device { .. } => false,
        };
        match address {
            Address::Device { namespace, name } => match &id.subject {
                Subject::Device {
                    namespace: own,
                    name: own_name,
                } => own == namespace && own_name == name,
                Subject::Workload { .. } => false,
            },
            Address::Service { namespace, service } => backs(namespace, service),
            Address::Pod {
                namespace,
                service,
                pod: wanted,
            } => backs(namespace, service) && pod.as_ref() == Some(wanted),
            Address::Authority => *id == set.authority,
            Address::Relay => *id == set.relay,
        }
    }
}

impl fmt::Debug for VerifiedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VerifiedPeer({} {:?} {})",
            self.proven.claims.id, self.proven.form, self.proven.claims.serial
        )
    }
}

/// A peer whose credential is genuine in all but its time, which is over. It
/// says who the peer was, and is good for nothing but asking for a new one.
#[derive(Clone)]
pub struct ExpiredPeer(VerifiedPeer);

impl ExpiredPeer {
    /// Who it was.
    pub fn id(&self) -> &SpiffeId {
        self.0.id()
    }

    /// UID of the object behind it.
    pub fn uid(&self) -> &Uid {
        self.0.uid()
    }

    /// When the credential was issued.
    pub fn issued_at(&self) -> UnixSeconds {
        self.0.issued_at()
    }

    /// When it ended.
    pub fn expired_at(&self) -> UnixSeconds {
        self.0.expires()
    }
}

impl fmt::Debug for ExpiredPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExpiredPeer({})", self.id())
    }
}

/// A credential that is genuine: signed by a trusted issuer for the key that
/// was proved. Its time may be over.
#[derive(Clone, Debug)]
pub enum Genuine {
    /// It is valid now.
    Valid(VerifiedPeer),
    /// It was.
    Expired(ExpiredPeer),
}

impl VerifiedTrustSet {
    /// Checks a credential, and that it certifies the key that the handshake
    /// proved (`proven_key`): the one maker of a [`VerifiedPeer`].
    ///
    /// With [`Clock::Floor`] nothing but "not expired at the floor" can be
    /// said of its time, and only the authority and relays pass.
    pub fn verify_credential(
        &self,
        bytes: &[u8],
        form: Form,
        proven_key: &[u8; 32],
        clock: Clock,
    ) -> Result<VerifiedPeer, CredentialError> {
        match self.verify_genuine(bytes, form, proven_key, clock)? {
            Genuine::Valid(peer) => Ok(peer),
            Genuine::Expired(_) => Err(CredentialError::Expired),
        }
    }

    /// As [`VerifiedTrustSet::verify_credential`], but tells a credential that
    /// has merely expired from one that is not genuine.
    pub fn verify_genuine(
        &self,
        bytes: &[u8],
        form: Form,
        proven_key: &[u8; 32],
        clock: Clock,
    ) -> Result<Genuine, CredentialError> {
        let (mut claims, envelope) = credential::read(bytes, form)?;
        let issuer = self
            .trust_set()
            .issuer(claims.issuer)
            .ok_or(CredentialError::UnknownIssuer(claims.issuer))?;
        if !envelope.is_signed_by(&issuer.key) {
            return Err(CredentialError::Signature);
        }
        if claims.handshake_key != *proven_key {
            return Err(CredentialError::KeyNotProven);
        }
        let domain = &self.trust_set().trust_domain;
        if claims.id.trust_domain == *domain {
            // One copy of it for all peers.
            claims.id.trust_domain = domain.clone();
        }
        let proven = Proven {
            claims,
            form,
            signed_by: issuer.key.fingerprint(),
        };
        self.judge(Arc::new(proven), issuer, clock)
    }

    /// Judges a peer again whose credential was verified before, under this
    /// trust set and by this clock: all but its signature and key, which stay
    /// as they were. It costs no signature, and no copy of the credential.
    pub fn verify_again(&self, peer: &Genuine, clock: Clock) -> Result<Genuine, CredentialError> {
        let proven = match peer {
            Genuine::Valid(peer) | Genuine::Expired(ExpiredPeer(peer)) => &peer.proven,
        };
        let id = proven.claims.issuer;
        let issuer = self.trust_set().issuer(id);
        // The id is a short hash.
        let issuer = issuer.filter(|issuer| issuer.key.fingerprint() == proven.signed_by);
        let issuer = issuer.ok_or(CredentialError::UnknownIssuer(id))?;
        self.judge(Arc::clone(proven), issuer, clock)
    }

    /// What trust set and clock say of it.
    fn judge(
        &self,
        proven: Arc<Proven>,
        issuer: &Issuer,
        clock: Clock,
    ) -> Result<Genuine, CredentialError> {
        let (claims, set) = (&proven.claims, self.trust_set());
        if claims.id.trust_domain != set.trust_domain {
            return Err(CredentialError::ForeignDomain);
        }
        if claims.issued_at < set.revocation_floor {
            return Err(CredentialError::BelowFloor);
        }
        if claims.issued_at < issuer.not_before || claims.issued_at >= issuer.expires {
            return Err(CredentialError::IssuerWindow);
        }
        let expires = claims.expires.min(issuer.expires);
        self.check_start(claims, clock)?;
        let peer = VerifiedPeer { proven, expires };
        if clock.at_least() >= expires {
            return Ok(Genuine::Expired(ExpiredPeer(peer)));
        }
        Ok(Genuine::Valid(peer))
    }

    fn check_start(&self, claims: &CredentialClaims, clock: Clock) -> Result<(), CredentialError> {
        credential::check_lifetime(claims).map_err(|_| CredentialError::Lifetime)?;
        match clock {
            Clock::Trusted(now) => {
                if claims.not_before > now.plus(limits::NOT_BEFORE_LEEWAY_SECONDS) {
                    return Err(CredentialError::NotYetValid);
                }
            }
            Clock::Floor(_) => {
                let (id, set) = (&claims.id, self.trust_set());
                if *id != set.authority && *id != set.relay {
                    return Err(CredentialError::ClockNeeded);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cose::{self, Kind};
    use crate::key::Signer;
    use crate::name::TrustDomain;
    use crate::testing::{self, KEY, NOW, device, issuer, root, stranger, trust, trust_set};
    use crate::trust::{IssuerId, TrustSet};

    fn check(
        trust: &VerifiedTrustSet,
        claims: &CredentialClaims,
        clock: Clock,
    ) -> Result<VerifiedPeer, CredentialError> {
        trust.verify_credential(&testing::issue(claims), Form::Full, &KEY, clock)
    }

    fn at(now: UnixSeconds) -> Clock {
        Clock::Trusted(now)
    }

    #[test]
    fn a_good_credential_makes_a_peer() {
        let peer = check(&trust(), &device(), at(NOW)).unwrap();
        assert_eq!(peer.id(), &device().id);
        assert_eq!(peer.attributes(), &device().attributes);
        assert_eq!(peer.expires(), device().expires);
        assert_eq!(peer.form(), Form::Full);
    }

    #[test]
    fn an_expired_credential_is_told_from_one_that_is_not_genuine() {
        let genuine = |claims: &CredentialClaims, key: &[u8; 32], now| {
            trust().verify_genuine(&testing::issue(claims), Form::Full, key, at(now))
        };
        let (claims, later) = (device(), device().expires);
        assert!(matches!(genuine(&claims, &KEY, NOW), Ok(Genuine::Valid(_))));
        match genuine(&claims, &KEY, later) {
            Ok(Genuine::Expired(peer)) => {
                assert_eq!((peer.id(), peer.uid()), (&claims.id, &claims.uid));
                assert_eq!(peer.expired_at(), later);
            }
            other => panic!("{other:?}"),
        }
        let stolen = genuine(&claims, &[0; 32], later);
        assert_eq!(stolen.err(), Some(CredentialError::KeyNotProven));
    }

    /// Under every trust set and clock, the same as verifying it anew.
    #[test]
    fn judging_again_is_as_strict_as_verifying() {
        let claims = device();
        let bytes = testing::issue(&claims);
        let before = trust().verify_genuine(&bytes, Form::Full, &KEY, at(NOW));
        let before = before.unwrap();
        let outcome = |result: Result<Genuine, CredentialError>| match result {
            Ok(Genuine::Valid(peer)) => Ok((true, peer.expires())),
            Ok(Genuine::Expired(peer)) => Ok((false, peer.expired_at())),
            Err(error) => Err(error),
        };
        let with = |change: &dyn Fn(&mut TrustSet)| {
            let mut set = trust_set();
            set.version += 1;
            change(&mut set);
            testing::verified(&set)
        };
        let else_where = TrustDomain::new("else.local").unwrap();
        let stranger = stranger().verifying_key();
        let sets = [
            trust(),
            with(&|set| set.issuers[0].key = stranger),
            with(&|set| set.issuers[0].expires = claims.issued_at),
            with(&|set| set.issuers[0].expires = NOW.plus(1)),
            with(&|set| set.issuers[0].not_before = claims.issued_at.plus(1)),
            with(&|set| set.revocation_floor = claims.issued_at.plus(1)),
            with(&|set| {
                for id in [&mut set.authority, &mut set.relay] {
                    id.trust_domain = else_where.clone();
                }
                set.trust_domain = else_where.clone();
            }),
        ];
        let mut outcomes = Vec::new();
        for set in &sets {
            for clock in [
                at(NOW),
                at(claims.expires),
                at(claims.not_before.minus(61)),
                Clock::Floor(NOW),
            ] {
                let again = outcome(set.verify_again(&before, clock));
                let anew = outcome(set.verify_genuine(&bytes, Form::Full, &KEY, clock));
                assert_eq!(again, anew, "{clock:?}");
                outcomes.push(again);
            }
        }
        assert!(outcomes.contains(&Ok((true, claims.expires))));
        assert!(outcomes.contains(&Err(CredentialError::BelowFloor)));
    }

    #[test]
    fn why_a_credential_is_not_believed() {
        let of = |change: &dyn Fn(&mut CredentialClaims)| {
            let mut claims = device();
            change(&mut claims);
            check(&trust(), &claims, at(NOW)).err()
        };
        use CredentialError as E;
        assert_eq!(of(&|c| c.handshake_key = [0; 32]), Some(E::KeyNotProven));
        let else_where = TrustDomain::new("else.local").unwrap();
        assert_eq!(
            of(&|c| c.id.trust_domain = else_where.clone()),
            Some(E::ForeignDomain)
        );
        assert_eq!(
            of(&|c| c.not_before = NOW.plus(60)),
            None,
            "within the leeway"
        );
        assert_eq!(of(&|c| c.not_before = NOW.plus(61)), Some(E::NotYetValid));
        assert_eq!(of(&|c| c.expires = NOW.plus(1)), None, "one second left");
        assert_eq!(of(&|c| c.expires = NOW), Some(E::Expired));
        assert_eq!(
            of(&|c| c.issued_at = NOW.minus(1_000_000)),
            None,
            "issuer's first second"
        );
        assert_eq!(
            of(&|c| c.issued_at = NOW.minus(1_000_001)),
            Some(E::IssuerWindow)
        );
        let bytes = testing::issue(&device());
        let lean = trust().verify_credential(&bytes, Form::Lean, &KEY, at(NOW));
        assert_eq!(lean.err(), Some(E::Malformed), "full where lean is due");
    }

    #[test]
    fn only_listed_issuers_count() {
        let id = IssuerId::of(&stranger().verifying_key());
        let claims = CredentialClaims {
            issuer: id,
            ..device()
        };
        let bytes = credential::issue(&claims, Form::Full, &stranger()).unwrap();
        let refused = trust()
            .verify_credential(&bytes, Form::Full, &KEY, at(NOW))
            .err();
        assert_eq!(refused, Some(CredentialError::UnknownIssuer(id)));
        // Names a listed issuer, but somebody else has signed it.
        let payload = {
            let (_, envelope) = credential::read(&testing::issue(&device()), Form::Full).unwrap();
            envelope.payload().to_vec()
        };
        let forged = cose::seal(Kind::Credential(Form::Full), payload, &stranger()).unwrap();
        let refused = trust()
            .verify_credential(&forged, Form::Full, &KEY, at(NOW))
            .err();
        assert_eq!(refused, Some(CredentialError::Signature));
        // The root is no issuer.
        let id = IssuerId::of(&root().verifying_key());
        let claims = CredentialClaims {
            issuer: id,
            ..device()
        };
        let bytes = credential::issue(&claims, Form::Full, &root()).unwrap();
        let refused = trust()
            .verify_credential(&bytes, Form::Full, &KEY, at(NOW))
            .err();
        assert_eq!(refused, Some(CredentialError::UnknownIssuer(id)));
    }

    #[test]
    fn an_issuers_end_ends_its_credentials() {
        let mut set = trust_set();
        set.issuers[0].expires = NOW.plus(10);
        let trust = testing::verified(&set);
        let peer = check(&trust, &device(), at(NOW)).unwrap();
        assert_eq!(peer.expires(), NOW.plus(10));
        let late = check(&trust, &device(), at(NOW.plus(10)));
        assert_eq!(late.err(), Some(CredentialError::Expired));
    }

    #[test]
    fn the_floor_voids_what_is_older() {
        let floor = |floor| {
            let set = TrustSet {
                revocation_floor: floor,
                ..trust_set()
            };
            check(&testing::verified(&set), &device(), at(NOW)).err()
        };
        assert_eq!(floor(NOW), None);
        assert_eq!(floor(NOW.plus(1)), Some(CredentialError::BelowFloor));
    }

    #[test]
    fn without_a_clock_only_authority_and_relay_are_believed() {
        let floor = Clock::Floor(NOW);
        let set = trust_set();
        for (id, want) in [
            (device().id, Some(CredentialError::ClockNeeded)),
            (
                testing::account("factory", "fairway-relay"),
                Some(CredentialError::ClockNeeded),
            ),
            (set.authority.clone(), None),
            (set.relay.clone(), None),
        ] {
            let claims = CredentialClaims {
                id,
                attributes: BTreeMap::new(),
                ..device()
            };
            assert_eq!(check(&trust(), &claims, floor).err(), want);
            // The floor may lie far in the past, but never past the end.
            let past = Clock::Floor(UnixSeconds(0));
            assert_eq!(check(&trust(), &claims, past).err(), want);
            if want.is_none() {
                let over = Clock::Floor(claims.expires);
                assert_eq!(
                    check(&trust(), &claims, over).err(),
                    Some(CredentialError::Expired)
                );
            }
        }
    }

    #[test]
    fn who_answers_to_what() {
        let trust = trust();
        let peer = |claims: &CredentialClaims, form| {
            let bytes = credential::issue(claims, form, &issuer()).unwrap();
            trust
                .verify_credential(&bytes, form, &KEY, at(NOW))
                .unwrap()
        };
        let set = trust_set();
        let own = |id: &SpiffeId| CredentialClaims {
            id: id.clone(),
            ..testing::workload()
        };
        let device = peer(&device(), Form::Lean);
        let workload = peer(&testing::workload(), Form::Full);
        let lean = peer(&testing::workload(), Form::Lean);
        let authority = peer(&own(&set.authority), Form::Lean);
        let relay = peer(&own(&set.relay), Form::Lean);
        for (who, address, want) in [
            (&device, "pump-7.factory.device", true),
            (&device, "pump-8.factory.device", false),
            (&device, "pump-7.office.device", false),
            (&device, "pump-7.factory.svc", false),
            (&device, "authority", false),
            (&workload, "collector.factory.svc", true),
            (&workload, "mosquitto.factory.svc", true),
            (&workload, "other.factory.svc", false),
            (&workload, "collector.office.svc", false),
            (&workload, "collector.factory.device", false),
            (&workload, "collector-0.collector.factory.svc", true),
            (&workload, "collector-1.collector.factory.svc", false),
            (&workload, "collector-0.other.factory.svc", false),
            (&workload, "relay", false),
            (&lean, "collector.factory.svc", false),
            (&authority, "authority", true),
            (&authority, "relay", false),
            (&relay, "relay", true),
            (&relay, "authority", false),
        ] {
            let address: Address = format!("{address}.fairway.internal").parse().unwrap();
            assert_eq!(who.answers_to(&address, &trust), want, "{who:?} {address}");
        }
    }

    #[test]
    fn damage_to_a_credential_is_noticed() {
        let trust = trust();
        testing::every_damage(&testing::issue(&device()), |damaged| {
            trust
                .verify_credential(damaged, Form::Full, &KEY, at(NOW))
                .is_err()
        });
    }
}
