//! `kubectl fairway ticket`: the line by which a device enrols.
//!
//! The key pair is made here; only its public half goes into the cluster. The
//! ticket is the only thing on standard output.

use std::io::Write;

use fairway_crds::{DeviceIdentity, DeviceState, EnrollmentTicket, EnrollmentTicketSpec};
use fairway_identity::{Label, NameError, RelayAddress, Ticket, TicketError};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::Error;
use crate::args::TicketArgs;
use crate::cluster::{Cluster, ClusterError};
use crate::console::Console;
use crate::install::{self, Trust};
use crate::{limits, when};

/// Why no ticket was made.
#[derive(Debug, thiserror::Error)]
pub enum TicketCommandError {
    /// The text is no name of a device.
    #[error("{name:?} is not the name of a device")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// The namespace is no label, so no device can be in it.
    #[error("{namespace:?} is not the name of a namespace")]
    Namespace {
        /// What was given.
        namespace: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// There is no such device.
    #[error(
        "no such device: namespace {namespace} has no DeviceIdentity {name}; `kubectl get deviceidentities -A` lists all, -n names another namespace, and a new one is made by kubectl apply"
    )]
    NoDevice {
        /// Namespace looked in.
        namespace: String,
        /// Name looked for.
        name: String,
    },
    /// The device may not have a credential now.
    #[error(
        "device {name} is {state:?}, so a ticket for it would be refused; let it in first: kubectl -n {namespace} patch deviceidentity {name} --type merge -p '{{\"spec\":{{\"state\":\"Active\"}}}}'"
    )]
    NotActive {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its state.
        state: DeviceState,
    },
    /// Nobody says where the relays are.
    #[error(
        "where devices reach the relays is not known: name it by --relay (HOST:PORT, or quic://HOST:PORT and so on), or for good by the chart's value relay.externalAddresses"
    )]
    NoRelay(#[source] Option<Box<ClusterError>>),
    /// The ticket cannot be put together.
    #[error("cannot make a ticket of this")]
    Ticket(#[source] TicketError),
    /// The operating system gives no randomness.
    #[error("the operating system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// Makes a ticket from `seed`, fresh randomness, and prints it.
pub async fn run(
    cluster: &Cluster,
    args: &TicketArgs,
    seed: [u8; 32],
    console: &mut Console<'_>,
    now: Timestamp,
) -> Result<(), Error> {
    let device = device(cluster, &args.device).await?;
    let trust = Trust::read(cluster).await?;
    let relays = relays(cluster, args, &trust).await?;
    let ticket = ticket(cluster, &device, &trust, relays, seed)?;
    let expiry = now + SignedDuration::from_secs(i64::try_from(args.ttl).unwrap_or(i64::MAX));
    let resource = resource(&ticket, &device, when::whole(expiry));
    let api = cluster.namespaced::<EnrollmentTicket>(&cluster.namespace);
    cluster
        .create(
            &api,
            &resource,
            &format!("EnrollmentTicket {}", resource.name_any()),
        )
        .await?;
    print(&ticket, args, console, now, when::whole(expiry))?;
    Ok(())
}

async fn device(cluster: &Cluster, name: &str) -> Result<DeviceIdentity, Error> {
    // Before asking, so that no text from the command line gets into a path.
    Label::new(name).map_err(|source| TicketCommandError::Name {
        name: name.to_owned(),
        source,
    })?;
    let namespace = cluster.namespace.clone();
    let api = cluster.namespaced::<DeviceIdentity>(&namespace);
    let found = cluster.find(&api, name).await?;
    let name = name.to_owned();
    let device = found.ok_or_else(|| TicketCommandError::NoDevice {
        namespace: namespace.clone(),
        name: name.clone(),
    })?;
    match device.spec.state {
        DeviceState::Active => Ok(device),
        state @ (DeviceState::Suspended | DeviceState::Revoked) => {
            Err(TicketCommandError::NotActive {
                namespace,
                name,
                state,
            }
            .into())
        }
    }
}

/// What was asked for, else what the installation says, else what its Service shows.
async fn relays(
    cluster: &Cluster,
    args: &TicketArgs,
    trust: &Trust,
) -> Result<Vec<RelayAddress>, TicketCommandError> {
    if !args.relay.is_empty() {
        return Ok(args.relay.clone());
    }
    if !trust.relays.is_empty() {
        return Ok(trust.relays.clone());
    }
    match install::relay_addresses(cluster).await {
        Ok(found) if found.is_empty() => Err(TicketCommandError::NoRelay(None)),
        Ok(found) => Ok(found),
        Err(error) => Err(TicketCommandError::NoRelay(Some(Box::new(error)))),
    }
}

fn ticket(
    cluster: &Cluster,
    device: &DeviceIdentity,
    trust: &Trust,
    relays: Vec<RelayAddress>,
    seed: [u8; 32],
) -> Result<Ticket, TicketCommandError> {
    let name = device.name_any();
    let label = Label::new(&name).map_err(|source| TicketCommandError::Name { name, source })?;
    let namespace =
        Label::new(&cluster.namespace).map_err(|source| TicketCommandError::Namespace {
            namespace: cluster.namespace.clone(),
            source,
        })?;
    Ticket::new(
        relays,
        trust.domain.clone(),
        trust.root,
        namespace,
        label,
        seed,
    )
    .map_err(TicketCommandError::Ticket)
}

/// The resource with the public half. It goes when the device goes.
fn resource(ticket: &Ticket, device: &DeviceIdentity, expiry: Timestamp) -> EnrollmentTicket {
    let owner = device.uid().map(|uid| OwnerReference {
        api_version: DeviceIdentity::api_version(&()).into_owned(),
        kind: DeviceIdentity::kind(&()).into_owned(),
        name: device.name_any(),
        uid,
        controller: None,
        block_owner_deletion: None,
    });
    EnrollmentTicket {
        metadata: ObjectMeta {
            name: Some(ticket.resource_name()),
            namespace: Some(ticket.namespace().to_string()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: EnrollmentTicketSpec {
            device: ticket.device().to_string(),
            public_key: ticket.public_key_text(),
            expiry_time: Time(expiry),
        },
        status: None,
    }
}

fn print(
    ticket: &Ticket,
    args: &TicketArgs,
    console: &mut Console<'_>,
    now: Timestamp,
    expiry: Timestamp,
) -> std::io::Result<()> {
    let err = &mut *console.err;
    let relays: Vec<String> = ticket.relays().iter().map(ToString::to_string).collect();
    writeln!(
        err,
        "Ticket {} for device {}, good until {}, by relay {}.",
        ticket.resource_name(),
        ticket.device(),
        when::relative(expiry, now),
        relays.join(" or ")
    )?;
    writeln!(
        err,
        "It is a secret and works once. On the device: fairway-device join TICKET"
    )?;
    if args.qr || (console.terminal && !args.no_qr) {
        qr(ticket, err)?;
    }
    err.flush()?;
    writeln!(console.out, "{ticket}")?;
    console.out.flush()
}

/// Draws the ticket, black on white whatever the terminal's own colours.
fn qr(ticket: &Ticket, out: &mut dyn Write) -> std::io::Result<()> {
    let text = ticket.qr_text();
    let Ok(code) = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L) else {
        return writeln!(out, "(too long for a QR code)");
    };
    let drawn = code.render::<Dense1x2>().quiet_zone(true).build();
    for line in drawn.lines() {
        writeln!(out, "\x1b[107;30m{line}\x1b[0m")?;
    }
    Ok(())
}

/// The bound is documented at `--ttl`.
const _: () = assert!(limits::TICKET_SECONDS == 30 * 86_400);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{self, FakeCluster, NOW};

    const DEVICE: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities/pump-7";
    const TICKETS: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/enrollmenttickets";
    const TRUST: &str = "/api/v1/namespaces/fairway-system/configmaps/fairway-trust";

    fn args() -> TicketArgs {
        TicketArgs {
            device: "pump-7".into(),
            ttl: 3600,
            relay: vec![],
            no_qr: false,
            qr: false,
        }
    }

    fn fake(relays: &str) -> FakeCluster {
        FakeCluster::new()
            .object(DEVICE, testing::device("Active"))
            .object(TRUST, json!({"data": testing::trust_data(relays)}))
            .accept(TICKETS)
    }

    async fn make(fake: &FakeCluster, args: &TicketArgs) -> (Result<(), Error>, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            terminal: false,
        };
        let result = run(&fake.cluster(), args, [7; 32], &mut console, NOW).await;
        (
            result,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_ticket_is_the_only_thing_on_standard_output() {
        let fake = fake("relay.example.com:443");
        let (result, out, err) = make(&fake, &args()).await;
        result.unwrap();
        let ticket: Ticket = out.parse().unwrap();
        assert_eq!(out.lines().count(), 1);
        assert_eq!(ticket.device(), &"pump-7");
        assert_eq!(ticket.namespace(), &"factory");
        assert_eq!(ticket.relays()[0].to_string(), "relay.example.com:443");
        assert!(
            err.contains("relay.example.com:443") && err.contains("(in 1h)"),
            "{err}"
        );
        assert!(!err.contains('█'), "no QR code without a terminal");
    }

    #[tokio::test]
    async fn only_the_public_half_reaches_the_cluster() {
        let fake = fake("relay.example.com:443");
        let (_, out, _) = make(&fake, &args()).await;
        let ticket: Ticket = out.parse().unwrap();
        let made = fake.created();
        assert_eq!(made.len(), 1);
        let made = &made[0];
        assert_eq!(made["metadata"]["name"], ticket.resource_name());
        assert_eq!(
            made["metadata"]["ownerReferences"][0]["uid"],
            "uid-of-pump-7"
        );
        assert_eq!(made["spec"]["publicKey"], ticket.public_key_text());
        assert_eq!(made["spec"]["device"], "pump-7");
        assert_eq!(made["spec"]["expiryTime"], "2026-11-23T07:00:00Z");
        let seed = data_of(ticket.key().seed());
        assert!(!made.to_string().contains(&seed) && !made.to_string().contains(out.trim()));
    }

    fn data_of(seed: &[u8; 32]) -> String {
        seed.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[tokio::test]
    async fn a_qr_code_is_drawn_when_asked_for() {
        let (result, out, err) = make(&fake("a:1"), &TicketArgs { qr: true, ..args() }).await;
        result.unwrap();
        assert!(
            err.lines().filter(|line| line.contains("▀")).count() > 15,
            "{err}"
        );
        assert!(!out.contains('█'));
    }

    #[tokio::test]
    async fn relays_come_from_the_command_line_the_installation_or_the_service() {
        let named = TicketArgs {
            relay: vec!["me.example.com:1".parse().unwrap()],
            ..args()
        };
        let (_, out, _) = make(&fake("relay.example.com:443"), &named).await;
        assert_eq!(
            out.parse::<Ticket>().unwrap().relays()[0].to_string(),
            "me.example.com:1"
        );
        let derived = fake("")
            .object(
                "/api/v1/namespaces/fairway-system/services/fairway-relay",
                json!({"spec": {"ports": [{"port": 7440, "nodePort": 30740}]}}),
            )
            .list("/api/v1/nodes", testing::nodes());
        let (_, out, _) = make(&derived, &args()).await;
        assert_eq!(
            out.parse::<Ticket>().unwrap().relays()[0].to_string(),
            "203.0.113.7:30740"
        );
        let (result, out, _) = make(&fake(""), &args()).await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("--relay (HOST:PORT")
        );
        assert!(out.is_empty());
    }

    #[tokio::test]
    async fn what_stands_against_a_ticket_is_said() {
        let said = |fake: FakeCluster| async move {
            let (result, out, _) = make(&fake, &args()).await;
            assert!(out.is_empty(), "no ticket: {out}");
            result.unwrap_err().to_string()
        };
        let trust: Value = json!({"data": testing::trust_data("a:1")});
        let base = || FakeCluster::new().object(TRUST, trust.clone());
        assert!(
            said(base().missing(DEVICE))
                .await
                .contains("no such device")
        );
        assert!(
            said(base()).await.contains("helm install fairway-crds"),
            "no CRDs"
        );
        for state in ["Suspended", "Revoked"] {
            let text = said(base().object(DEVICE, testing::device(state))).await;
            assert!(
                text.contains(state) && text.contains("patch deviceidentity pump-7"),
                "{text}"
            );
        }
        let device = || FakeCluster::new().object(DEVICE, testing::device("Active"));
        assert!(
            said(device().missing(TRUST))
                .await
                .contains("--install-namespace")
        );
        let forbidden = said(fake("a:1").refuse(TICKETS, 403, "User \"eve\" cannot create")).await;
        assert!(
            forbidden.starts_with("no permission: User \"eve\" cannot create"),
            "{forbidden}"
        );
        let invalid = said(fake("a:1").refuse(TICKETS, 422, "spec.device: wrong")).await;
        assert!(invalid.contains("EnrollmentTicket") && invalid.contains("spec.device: wrong"));
        let unknown = said(FakeCluster::new().refuse(DEVICE, 401, "Unauthorized")).await;
        assert!(unknown.contains("log in again"), "{unknown}");
    }

    #[tokio::test]
    async fn a_name_that_is_none_never_reaches_the_cluster() {
        for name in ["", "Pump", "a/b", "..", "a.b"] {
            let args = TicketArgs {
                device: name.into(),
                ..args()
            };
            let fake = FakeCluster::new();
            let (result, _, _) = make(&fake, &args).await;
            assert!(
                result
                    .unwrap_err()
                    .to_string()
                    .contains("not the name of a device")
            );
            assert!(fake.asked().is_empty(), "{name}");
        }
    }
}
