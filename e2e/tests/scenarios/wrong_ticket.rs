//! Tickets that cannot be used: the device says why, and nothing was enrolled.

use fairway_e2e::{Result, Scenario, scenario};
use fairway_identity::{RootHash, Ticket};

async fn not_enrolled(s: &Scenario) -> Result<()> {
    let device = s.object("DeviceIdentity", "pump-7", |_| true).await?;
    assert_eq!(
        device["status"]["deviceKey"],
        fairway_e2e::Value::Null,
        "{device}"
    );
    Ok(())
}

#[test]
fn a_damaged_ticket_is_noticed_without_asking_anybody() {
    scenario("damaged", async |s| {
        s.identity("pump-7").await?;
        let ticket = s.ticket("pump-7").await?;
        let device = s.device("pump-7").await?;
        let middle = ticket.len() / 2;
        let other = if ticket.as_bytes()[middle] == b'a' {
            "b"
        } else {
            "a"
        };
        let mut damaged = ticket.clone();
        damaged.replace_range(middle..=middle, other);
        for (text, says) in [
            (damaged.as_str(), "damaged"),
            (&ticket[..ticket.len() - 4], "damaged"),
            ("pump-7", "fairway1-"),
        ] {
            let said = device.join(text).await?.failed()?;
            assert!(said.contains(says), "{text}: {said}");
        }
        not_enrolled(s).await?;
        device.join(&ticket).await?.succeeded()?;
        Ok(())
    });
}

#[test]
fn a_ticket_that_was_taken_back_is_refused() {
    scenario("taken-back", async |s| {
        s.identity("pump-7").await?;
        let ticket = s.ticket("pump-7").await?;
        let name = ticket_name(s).await?;
        s.delete("EnrollmentTicket", &name).await?;
        let said = s.device("pump-7").await?.join(&ticket).await?.failed()?;
        assert!(said.contains("ticket-unknown"), "{said}");
        not_enrolled(s).await
    });
}

/// Right in every detail, but nobody made it with `kubectl fairway ticket`.
#[test]
fn a_forged_ticket_is_refused() {
    scenario("forged", async |s| {
        s.identity("pump-7").await?;
        let real: Ticket = s.ticket("pump-7").await?.parse()?;
        let forged = forge(&real, *real.root())?;
        let said = s.device("pump-7").await?.join(&forged).await?.failed()?;
        assert!(said.contains("ticket-unknown"), "{said}");
        not_enrolled(s).await
    });
}

/// A ticket of another installation, whose relay leads here: the device must
/// not show its ticket to an authority that it cannot know.
#[test]
fn a_device_trusts_the_root_of_its_ticket_and_no_other() {
    scenario("other-root", async |s| {
        s.identity("pump-7").await?;
        let real: Ticket = s.ticket("pump-7").await?.parse()?;
        let foreign = forge(&real, RootHash([7; 32]))?;
        let said = s.device("pump-7").await?.join(&foreign).await?.failed()?;
        assert!(said.contains("root"), "{said}");
        not_enrolled(s).await
    });
}

fn forge(real: &Ticket, root: RootHash) -> Result<String> {
    let (domain, namespace, device) = (
        real.trust_domain().clone(),
        real.namespace().clone(),
        real.device().clone(),
    );
    Ok(Ticket::new(
        real.relays().to_vec(),
        domain,
        root,
        namespace,
        device,
        [9; 32],
    )?
    .to_string())
}

#[test]
fn an_expired_ticket_is_refused() {
    scenario("expired", async |s| {
        s.identity("pump-7").await?;
        let printed = s
            .cli(&["ticket", "pump-7", "--ttl", "1s"])
            .await?
            .succeeded()?;
        let ticket = printed
            .lines()
            .find(|line| line.starts_with("fairway1-"))
            .unwrap_or_default()
            .to_owned();
        // The operator says when it is over.
        let name = ticket_name(s).await?;
        s.condition("EnrollmentTicket", &name, "Usable", "False")
            .await?;
        let said = s.device("pump-7").await?.join(&ticket).await?.failed()?;
        assert!(said.contains("ticket-expired"), "{said}");
        not_enrolled(s).await
    });
}

async fn ticket_name(s: &Scenario) -> Result<String> {
    s.only("EnrollmentTicket").await
}
