//! A device and a workload, with a relay between them.

use fairway_control::update::Door;
use fairway_endpoint::{Endpoint, Incoming, OpenError, Stream};
use fairway_policy::PolicySet;
use fairway_session::OpenRequest;
use tokio::sync::mpsc;

use super::authority::Authority;
use super::relay::Relay;
use super::{address, label, service, soon};

pub const COLLECTOR: &str = "collector.factory.svc.fairway.internal";
pub const PUMP: &str = "pump-7.factory.device.fairway.internal";
pub const COLLECTOR_ID: &str = "spiffe://fairway.local/ns/factory/sa/collector";
pub const PUMP_ID: &str = "spiffe://fairway.local/ns/factory/device/pump-7";

/// Everything, up and registered. The collector offers port 80, which leads to
/// its port 8080; the pump offers `metrics` on port 9100.
pub struct World {
    pub authority: Authority,
    pub relay: Relay,
    pub front: Endpoint,
    pub collector: Endpoint,
    pub calls: mpsc::Receiver<Incoming>,
    pub pump: Endpoint,
    pub scrapes: mpsc::Receiver<Incoming>,
}

impl World {
    pub async fn start() -> Self {
        Self::scraped(super::allow_workloads(service("metrics"))).await
    }

    /// One in which the pump has these policies.
    pub async fn scraped(policies: PolicySet) -> Self {
        let authority = Authority::start();
        let relay = Relay::start(&authority).await;
        let relays = vec![relay.address.clone()];
        authority.publish(COLLECTOR_ID, |state| {
            state.policies = super::allow_devices(super::port(8080));
            state.names = vec![address(COLLECTOR)];
            state.ready = true;
            state.relays = relays.clone();
            state.doors = vec![Door {
                service: label("collector"),
                port: 80,
                target_port: 8080,
            }];
        });
        authority.publish(PUMP_ID, |state| {
            state.policies = policies;
        });
        let front = super::front(&authority, &relays).await;
        soon(front.registered()).await;
        let services = &["collector"];
        let (collector, calls) = super::workload(&authority, &front, "collector", services).await;
        let doors = &[(9100, "metrics")];
        let (pump, scrapes) = super::device(&authority, &relays, "pump-7", doors).await;
        soon(collector.credentialed()).await;
        soon(collector.registered()).await;
        soon(pump.credentialed()).await;
        soon(pump.registered()).await;
        Self {
            authority,
            relay,
            front,
            collector,
            calls,
            pump,
            scrapes,
        }
    }

    /// A call of the pump that the collector accepts: both ends.
    pub async fn joined(&mut self) -> (Stream, Incoming) {
        let serving = async {
            let call = self.calls.recv().await.unwrap();
            call.accept().unwrap();
            call
        };
        let (stream, served) = soon(async { tokio::join!(call(&self.pump), serving) }).await;
        (stream.unwrap(), served)
    }
}

/// The pump calls the collector.
pub async fn call(pump: &Endpoint) -> Result<Stream, OpenError> {
    pump.open(&address(COLLECTOR), OpenRequest::port(80)).await
}

/// Serves every stream by sending back what comes.
pub fn echo(mut calls: mpsc::Receiver<Incoming>) {
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            call.accept().unwrap();
            tokio::spawn(async move {
                let (mut recv, mut send) = call.stream.split();
                while let Ok(Some(chunk)) = recv.read_chunk().await {
                    if send.write_chunk(chunk).await.is_err() {
                        return;
                    }
                }
                send.finish();
            });
        }
    });
}
