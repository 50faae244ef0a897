//! A ticket enrols one device. The same device may try again with it, as after
//! a lost answer; another one is refused, and the owner sees that somebody tried.

use fairway_e2e::scenario;

#[test]
fn a_ticket_is_for_one_key() {
    scenario("twice", async |s| {
        s.identity("pump-7").await?;
        let ticket = s.ticket("pump-7").await?;
        let first = s.device("pump-7").await?;
        first.join(&ticket).await?.succeeded()?;
        let enrolled = s
            .object("DeviceIdentity", "pump-7", |device| {
                device["status"]["deviceKey"].is_string()
            })
            .await?;

        let second = s.device("thief").await?;
        let said = second.join(&ticket).await?.failed()?;
        assert!(said.contains("ticket-used"), "{said}");
        s.event("EnrollmentTicket", "TicketReuseRefused").await?;

        first.join(&ticket).await?.succeeded()?;
        let now = s.object("DeviceIdentity", "pump-7", |_| true).await?;
        assert_eq!(now["status"]["deviceKey"], enrolled["status"]["deviceKey"]);
        s.condition(
            "EnrollmentTicket",
            &s.only("EnrollmentTicket").await?,
            "Usable",
            "False",
        )
        .await?;
        Ok(())
    });
}
