//! One request: read, handled, answered, logged.

use std::time::Instant;

use fairway_control::authority::{Request, Response};
use fairway_control::front::{Preamble, Stream};
use fairway_control::update::Version;
use fairway_daemon::Drain;
use fairway_identity::SignedTime;
use tokio::time::{interval_at, timeout};

use super::conn::{Closed, Conn};
use crate::attest::{device, front, ticket, workload};
use crate::authority::Authority;
use crate::distribute::Audience;
use crate::distribute::watch::{self, Ended, ShownCredential};
use crate::events::chain;
use crate::issue::Made;
use crate::limits;
use crate::refusal::Refusal;
use crate::seen::WHILE_CONNECTED;

/// Serves the one request of a connection.
pub(super) async fn serve(
    conn: &mut Conn,
    authority: &Authority,
    drain: &Drain,
) -> Result<(), Closed> {
    let begun = Instant::now();
    let read = async {
        let preamble = conn.read::<Preamble>().await?;
        Ok((preamble, conn.read::<Request>().await?))
    };
    let Ok(read) = timeout(limits::REQUEST_WAIT, read).await else {
        return Ok(());
    };
    let (preamble, request) = match read {
        Ok(read) => read,
        Err(Closed::Malformed(error)) => {
            authority.metrics.request("malformed", "malformed");
            tracing::info!(
                event = "request",
                request = "malformed",
                decision = "refused",
                reason = "malformed",
                error = chain(&error)
            );
            return conn.write(&malformed()).await;
        }
        Err(closed) => return Err(closed),
    };
    let peer = peer_text(&preamble);
    let name = name(&request);
    let answer = match request {
        Request::Watch { have } => {
            let ended = self::watch(conn, authority, drain, preamble, have).await;
            log(name, &peer, begun, ended.as_ref().err());
            authority
                .metrics
                .request(name, ended.as_ref().err().map_or("ok", Refusal::word));
            return match ended {
                Ok(()) => Ok(()),
                Err(refusal) => conn.write(&refusal.response()).await,
            };
        }
        request => answer(authority, &preamble, request).await,
    };
    authority
        .metrics
        .request(name, answer.as_ref().err().map_or("ok", Refusal::word));
    log(name, &peer, begun, answer.as_ref().err());
    let response = answer.unwrap_or_else(|refusal| refusal.response());
    conn.write(&response).await
}

async fn answer(
    authority: &Authority,
    preamble: &Preamble,
    request: Request,
) -> Result<Response, Refusal> {
    let made = match (request, preamble) {
        (Request::GetTime { nonce }, _) => return time(authority, &nonce).await,
        (Request::Enroll(request), Preamble::Stream(stream)) => {
            ticket::enroll(authority, stream, &request).await?
        }
        (Request::RenewDevice(request), Preamble::Stream(stream)) => {
            device::renew(authority, stream, &request).await?
        }
        (Request::AttestWorkload(request), Preamble::Stream(stream)) => {
            workload::attest(authority, stream, &request).await?
        }
        (Request::FrontCredential { handshake_key }, Preamble::Local) => {
            front::attest(authority, handshake_key).await?
        }
        (Request::FrontCredential { .. }, Preamble::Stream(_)) => {
            return Err(Refusal::Forbidden(
                "only the authority's own front may ask for its credential",
            ));
        }
        (
            Request::Enroll(_) | Request::RenewDevice(_) | Request::AttestWorkload(_),
            Preamble::Local,
        ) => {
            return Err(Refusal::Forbidden(
                "the front asks for its own credential only",
            ));
        }
        (Request::Watch { .. }, _) => {
            return Err(Refusal::Forbidden("a watch is not answered once"));
        }
    };
    let Made { issued, .. } = made;
    Ok(Response::Issued(issued))
}

async fn time(
    authority: &Authority,
    nonce: &fairway_identity::signed_time::Nonce,
) -> Result<Response, Refusal> {
    let (ring, now) = (authority.ring().await?, authority.clock.now());
    let issuer = ring
        .issuer(now)
        .ok_or(crate::issue::IssueFailure::NoIssuer)?;
    let signed = SignedTime::sign(issuer.key, nonce, now)
        .map_err(|error| Refusal::Unissuable(error.to_string()))?;
    Ok(Response::Time {
        signed,
        trust_set: ring.trust().bytes().to_vec(),
    })
}

async fn watch(
    conn: &mut Conn,
    authority: &Authority,
    drain: &Drain,
    preamble: Preamble,
    have: Option<Version>,
) -> Result<(), Refusal> {
    let (audience, shown) = audience(authority, preamble)?;
    authority.index_ready().await?;
    let _counted = authority.metrics.watch(audience.kind());
    let place = authority.hub.subscribe(audience);
    let seen = || {
        if let Audience::Device {
            namespace, name, ..
        } = place.audience()
        {
            authority.seen.seen(namespace, name);
        }
    };
    seen();
    let begun = tokio::time::Instant::now();
    let mut ticks = interval_at(begun + WHILE_CONNECTED, WHILE_CONNECTED);
    let serve = watch::serve(conn, &place, shown.as_ref(), have);
    tokio::pin!(serve);
    let ended = loop {
        tokio::select! {
            ended = &mut serve => break ended,
            _ = ticks.tick() => seen(),
            // Not an answer: the stream just ends, and the endpoint asks again,
            // another replica if there is one.
            () = drain.started() => return Ok(()),
        }
    };
    seen();
    match ended {
        Ended::Closed(Closed::Malformed(error)) => {
            tracing::info!(
                event = "watch-broken",
                uid = place.audience().uid(),
                error = chain(&error)
            );
            Ok(())
        }
        Ended::Closed(_) => Ok(()),
        Ended::Revoked => Err(Refusal::Revoked("the credential is revoked; renew it")),
        Ended::Gone(gone) => Err(match gone {
            crate::distribute::Gone::Device => Refusal::DeviceUnknown,
            crate::distribute::Gone::DeviceState => {
                Refusal::Revoked("the device is suspended or revoked")
            }
            crate::distribute::Gone::Pod => {
                Refusal::Pod("does not exist, or has no Fairway sidecar")
            }
        }),
        Ended::OutOfStep => Err(Refusal::Forbidden(
            "an update was acknowledged that was not sent",
        )),
        Ended::NoAck => Err(Refusal::NotNow {
            what: "an update was not acknowledged in time",
            retry_after: 1,
        }),
    }
}

fn audience(
    authority: &Authority,
    preamble: Preamble,
) -> Result<(Audience, Option<ShownCredential>), Refusal> {
    let peer = match preamble {
        Preamble::Local => {
            return Ok((
                Audience::Front {
                    namespace: authority.install.namespace.to_string(),
                },
                None,
            ));
        }
        Preamble::Stream(Stream { peer: None, .. }) => {
            return Err(Refusal::Forbidden("a watch needs a credential"));
        }
        Preamble::Stream(Stream {
            peer: Some(peer), ..
        }) => peer,
    };
    if peer.id.trust_domain != authority.install.trust_domain {
        return Err(Refusal::Forbidden(
            "the credential is of another trust domain",
        ));
    }
    let shown = ShownCredential {
        uid: peer.uid.clone(),
        issued_at: peer.issued_at,
    };
    Ok((
        Audience::of(&peer.id.subject, peer.uid, &authority.install),
        Some(shown),
    ))
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::GetTime { .. } => "get-time",
        Request::Enroll(_) => "enroll",
        Request::RenewDevice(_) => "renew-device",
        Request::AttestWorkload(_) => "attest-workload",
        Request::Watch { .. } => "watch",
        Request::FrontCredential { .. } => "front-credential",
    }
}

fn peer_text(preamble: &Preamble) -> String {
    match preamble {
        Preamble::Local => "front".to_owned(),
        Preamble::Stream(Stream {
            peer: Some(peer), ..
        }) => peer.id.to_string(),
        Preamble::Stream(Stream { peer: None, .. }) => "anonymous".to_owned(),
    }
}

fn log(request: &'static str, peer: &str, begun: Instant, refusal: Option<&Refusal>) {
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match refusal {
        None => tracing::info!(
            event = "request",
            request,
            peer,
            decision = "ok",
            duration_ms
        ),
        Some(refusal) => {
            tracing::info!(
                event = "request",
                request,
                peer,
                decision = "refused",
                reason = refusal.word(),
                error = chain(refusal),
                duration_ms
            );
        }
    }
}

fn malformed() -> Response {
    Response::Error {
        reason: fairway_control::Reason::new(
            fairway_control::reason::PROTOCOL,
            "that is no request",
        ),
        retry_after_seconds: None,
    }
}
