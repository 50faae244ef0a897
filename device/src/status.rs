//! `fairway-device status`: what is on disk, and what the running agent says.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use fairway_device::StateDir;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ANSWER: usize = 4 * 1024 * 1024;

pub(crate) async fn show(state_dir: &Path, debug: SocketAddr, as_json: bool) -> anyhow::Result<()> {
    let enrolment = StateDir::peek(state_dir)?;
    let agent = tokio::time::timeout(TIMEOUT, fetch(debug))
        .await
        .context("no answer")
        .flatten();
    if as_json {
        let document = json!({
            "enrolment": enrolment.as_ref().map(|e| json!({
                "trustDomain": e.trust_domain.to_string(), "namespace": e.namespace.to_string(),
                "name": e.name.to_string(), "rootHash": e.root.to_string(), "relays": e.relays.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })),
            "agent": agent.as_ref().ok(),
        });
        println!("{document:#}");
        return Ok(());
    }
    match &enrolment {
        Some(e) => println!(
            "identity    spiffe://{}/ns/{}/device/{}",
            e.trust_domain, e.namespace, e.name
        ),
        None => println!("identity    none: not joined ({})", state_dir.display()),
    }
    match agent {
        Ok(status) => print_agent(&status),
        Err(error) => println!("agent       not running, or not at {debug} ({error:#})"),
    }
    Ok(())
}

fn print_agent(status: &Value) {
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    match &status["credential"] {
        Value::Null => println!("credential  none: {}", text(&status["credential_error"])),
        credential => println!(
            "credential  expires at {} (Unix seconds), renewed at {}",
            credential["expires"], credential["renew_at"]
        ),
    }
    for link in status["links"].as_array().into_iter().flatten() {
        let names: Vec<String> = link["registered"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        println!(
            "link        {} {} registered: {}",
            text(&link["remote"]),
            text(&link["state"]),
            names.join(", ")
        );
        if let Some(error) = link["last_error"].as_str() {
            println!("            last error: {error}");
        }
    }
    for session in status["sessions"].as_array().into_iter().flatten() {
        println!(
            "session     {} with {} ({} streams)",
            text(&session["dialled"]),
            text(&session["peer"]),
            session["streams"]
        );
    }
    let refused = status["services_not_allowed"].as_array();
    for service in refused.into_iter().flatten() {
        println!(
            "service     {} is not offered: spec.services of the DeviceIdentity does not name it",
            text(service)
        );
    }
    println!("policies    {}", status["policies"]);
}

async fn fetch(debug: SocketAddr) -> anyhow::Result<Value> {
    let socket = TcpStream::connect(debug).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/debug/state")
        .header("host", "localhost")
        .body(Empty::<hyper::body::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!(e))?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}
