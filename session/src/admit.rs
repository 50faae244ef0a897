//! Every check that a peer has to pass before there is a session with it.
//!
//! Plain functions of what was shown and what is known; the state machine in
//! `session.rs` calls them and closes the session with whatever they refuse.

use std::sync::Arc;

use fairway_channel::Code;
use fairway_identity::{
    Address, Clock, CredentialError, Form, Genuine, RootHash, SpiffeId, Uid, UnixSeconds,
    VerifiedPeer, VerifiedTrustSet,
};

use crate::code::{self, Refusal};
use crate::hello::Hello;
use crate::local::{Admit, Rules};
use crate::peer::{Dialled, Standing};

/// What the checks know besides what the peer showed.
pub(crate) struct Known<'a> {
    pub(crate) trust: Option<&'a VerifiedTrustSet>,
    pub(crate) rules: &'a Rules,
    pub(crate) clock: Clock,
}

/// Reads a hello.
pub(crate) fn read_hello(bytes: &[u8]) -> Result<Hello, Refusal> {
    Hello::from_bytes(bytes)
        .map_err(|error| Refusal::new(code::MALFORMED, format!("the peer's hello: {error}")))
}

/// The trust set that the peer showed, if it is newer than ours. One that the
/// pinned root has not signed is a refusal: such a peer belongs elsewhere.
pub(crate) fn newer_trust(
    shown: Option<&[u8]>,
    ours: Option<&VerifiedTrustSet>,
    pin: &RootHash,
) -> Result<Option<VerifiedTrustSet>, Refusal> {
    let Some(bytes) = shown else { return Ok(None) };
    if ours.is_some_and(|ours| ours.bytes() == bytes) {
        return Ok(None);
    }
    let theirs = VerifiedTrustSet::verify(bytes, pin, 0).map_err(|error| {
        Refusal::new(code::TRUST_REFUSED, format!("{}: {error}", error.reason()))
    })?;
    match ours {
        Some(ours) if theirs.version() <= ours.version() => Ok(None),
        Some(_) | None => Ok(Some(theirs)),
    }
}

/// The dialler's check of message 2: a lean credential of somebody that may be
/// whom we dialled.
pub(crate) fn check_lean(
    hello: &Hello,
    proven_key: &[u8; 32],
    dialled: &Address,
    known: &Known<'_>,
) -> Result<VerifiedPeer, Refusal> {
    let peer = check_credential(hello, Form::Lean, proven_key, known)?;
    check_clock_is_enough(dialled, known.clock)?;
    match dialled {
        // Services and pods are not in the lean form; they are checked on the
        // full one, before any stream opens.
        Address::Service { .. } | Address::Pod { .. } => Ok(peer),
        Address::Device { .. } | Address::Authority | Address::Relay => {
            check_name(&peer, dialled, known).map(|()| peer)
        }
    }
}

/// The dialler's check of the HELLO frame: the full credential of the same
/// subject, which answers to the name that we dialled.
pub(crate) fn check_full(
    hello: &Hello,
    proven_key: &[u8; 32],
    dialled: &Address,
    lean: &VerifiedPeer,
    known: &Known<'_>,
) -> Result<VerifiedPeer, Refusal> {
    let peer = check_credential(hello, Form::Full, proven_key, known)?;
    check_clock_is_enough(dialled, known.clock)?;
    if peer.id() != lean.id() || peer.uid() != lean.uid() {
        return Err(Refusal::new(
            code::NAME_MISMATCH,
            format!(
                "the peer showed credentials of two subjects, {} and {}",
                lean.id(),
                peer.id()
            ),
        ));
    }
    check_name(&peer, dialled, known)?;
    Ok(peer)
}

/// The answering side's check of message 3.
pub(crate) fn check_caller(
    hello: &Hello,
    proven_key: &[u8; 32],
    known: &Known<'_>,
) -> Result<Standing, Refusal> {
    let Some(credential) = &hello.credential else {
        return match known.rules.admit {
            Admit::AlsoAnonymous => ticket_holder(hello, proven_key, known.rules),
            Admit::Credentialed => Err(Refusal::new(
                code::ANONYMOUS,
                "this endpoint talks only to peers with a credential",
            )),
        };
    };
    let standing = match genuine(credential, Form::Full, proven_key, known)? {
        Genuine::Valid(peer) => Standing::Verified(peer),
        Genuine::Expired(peer) => match known.rules.admit {
            Admit::AlsoAnonymous => Standing::Expired(peer),
            Admit::Credentialed => return Err(expired(peer.id())),
        },
    };
    check_revoked(&standing, known.rules)?;
    // Callers are judged by expiry and attributes, which need the time.
    match known.clock {
        Clock::Trusted(_) => Ok(standing),
        Clock::Floor(_) => Err(clock_unknown()),
    }
}

/// Somebody without a credential. A ticket that is not known (any more) is as
/// good as none; one that does not vouch for this peer is a lie.
fn ticket_holder(hello: &Hello, proven_key: &[u8; 32], rules: &Rules) -> Result<Standing, Refusal> {
    let Some(ticket) = &hello.ticket else {
        return Ok(Standing::Anonymous);
    };
    let id = ticket
        .verify(proven_key)
        .map_err(|error| Refusal::new(code::CREDENTIAL_REFUSED, format!("the ticket: {error}")))?;
    Ok(match rules.tickets.contains(&id) {
        true => Standing::TicketHolder(id),
        false => Standing::Anonymous,
    })
}

/// A renewal shows the same subject as before, or nobody as before. Expired
/// may become valid.
pub(crate) fn check_same(before: &Standing, now: &Standing) -> Result<(), Refusal> {
    let of = |standing: &Standing| match standing {
        Standing::Verified(peer) => Some((peer.id().clone(), peer.uid().clone())),
        Standing::Expired(peer) => Some((peer.id().clone(), peer.uid().clone())),
        Standing::TicketHolder(_) | Standing::Anonymous => None,
    };
    if of(before) == of(now) {
        return Ok(());
    }
    let text = "a renewal cannot change who the peer is";
    Err(Refusal::new(code::NAME_MISMATCH, text))
}

/// The answering side's check of the name that was dialled.
pub(crate) fn check_dialled(
    dialled: Option<&str>,
    names: &Arc<[Address]>,
) -> Result<Dialled, Refusal> {
    let text = dialled.unwrap_or_default();
    let address: Option<Address> = text.parse().ok();
    let found = address.and_then(|address| Dialled::among(names, &address));
    found.ok_or_else(|| {
        Refusal::new(
            code::NAME_MISMATCH,
            format!("{text:?} is not a name of this endpoint"),
        )
    })
}

/// Checks the credential of an admitted peer again, under another trust set or
/// by a better clock. Its standing never gets better by it.
pub(crate) fn check_again(standing: &Standing, known: &Known<'_>) -> Result<Standing, Refusal> {
    let again = |was| verified(trust(known)?.verify_again(was, known.clock));
    let standing = match standing {
        Standing::TicketHolder(id) => Standing::TicketHolder(*id),
        Standing::Anonymous => Standing::Anonymous,
        Standing::Expired(was) => {
            again(&Genuine::Expired(was.clone()))?;
            Standing::Expired(was.clone())
        }
        Standing::Verified(was) => Standing::Verified(valid(again(&Genuine::Valid(was.clone()))?)?),
    };
    check_revoked(&standing, known.rules)?;
    Ok(standing)
}

/// Whether the peer's credential was revoked.
pub(crate) fn check_revoked(standing: &Standing, rules: &Rules) -> Result<(), Refusal> {
    let revoked = |id: &SpiffeId, uid: &Uid, issued_at: UnixSeconds| {
        if rules.revoked.revokes(uid, issued_at) {
            let text = format!("{id} is suspended or revoked");
            return Err(Refusal::new(code::REVOKED, text));
        }
        Ok(())
    };
    match standing {
        Standing::Verified(peer) => revoked(peer.id(), peer.uid(), peer.issued_at()),
        Standing::Expired(peer) => revoked(peer.id(), peer.uid(), peer.issued_at()),
        Standing::TicketHolder(_) | Standing::Anonymous => Ok(()),
    }
}

/// The refusal of somebody whose credential has run out.
pub(crate) fn expired(id: &SpiffeId) -> Refusal {
    let text = format!("the credential of {id} has expired");
    Refusal::new(code::CREDENTIAL_EXPIRED, text)
}

fn check_credential(
    hello: &Hello,
    form: Form,
    proven_key: &[u8; 32],
    known: &Known<'_>,
) -> Result<VerifiedPeer, Refusal> {
    let Some(credential) = &hello.credential else {
        return Err(Refusal::new(
            code::ANONYMOUS,
            "the peer showed no credential",
        ));
    };
    let peer = valid(genuine(credential, form, proven_key, known)?)?;
    check_revoked(&Standing::Verified(peer.clone()), known.rules)?;
    Ok(peer)
}

fn valid(genuine: Genuine) -> Result<VerifiedPeer, Refusal> {
    match genuine {
        Genuine::Valid(peer) => Ok(peer),
        Genuine::Expired(peer) => Err(expired(peer.id())),
    }
}

fn genuine(
    credential: &[u8],
    form: Form,
    proven_key: &[u8; 32],
    known: &Known<'_>,
) -> Result<Genuine, Refusal> {
    verified(trust(known)?.verify_genuine(credential, form, proven_key, known.clock))
}

fn trust<'a>(known: &Known<'a>) -> Result<&'a VerifiedTrustSet, Refusal> {
    known.trust.ok_or_else(|| {
        Refusal::new(
            code::TRUST_REFUSED,
            "no trust set is known, and the peer showed none",
        )
    })
}

fn verified(result: Result<Genuine, CredentialError>) -> Result<Genuine, Refusal> {
    result.map_err(|error| Refusal::new(code_of(&error), format!("{}: {error}", error.reason())))
}

/// A side that does not know the time may meet the authority and relays, to
/// ask for it, and nobody else.
fn check_clock_is_enough(dialled: &Address, clock: Clock) -> Result<(), Refusal> {
    match (clock, dialled) {
        (Clock::Trusted(_), _) | (Clock::Floor(_), Address::Authority | Address::Relay) => Ok(()),
        (
            Clock::Floor(_),
            Address::Device { .. } | Address::Service { .. } | Address::Pod { .. },
        ) => Err(clock_unknown()),
    }
}

fn check_name(peer: &VerifiedPeer, dialled: &Address, known: &Known<'_>) -> Result<(), Refusal> {
    if known
        .trust
        .is_some_and(|trust| peer.answers_to(dialled, trust))
    {
        return Ok(());
    }
    Err(Refusal::new(
        code::NAME_MISMATCH,
        format!("{} answered for {dialled}", peer.id()),
    ))
}

fn clock_unknown() -> Refusal {
    Refusal::new(
        code::CLOCK_UNKNOWN,
        "this side does not know the time yet; ask the authority first",
    )
}

fn code_of(error: &CredentialError) -> Code {
    match error {
        CredentialError::Expired => code::CREDENTIAL_EXPIRED,
        CredentialError::ClockNeeded => code::CLOCK_UNKNOWN,
        CredentialError::BelowFloor => code::REVOKED,
        CredentialError::Malformed
        | CredentialError::UnknownIssuer(_)
        | CredentialError::Signature
        | CredentialError::IssuerWindow
        | CredentialError::ForeignDomain
        | CredentialError::KeyNotProven
        | CredentialError::Lifetime
        | CredentialError::NotYetValid => code::CREDENTIAL_REFUSED,
    }
}
