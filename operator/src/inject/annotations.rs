//! What a pod wishes of its sidecar, said by annotations.

use fairway_crds::labels;
use fairway_identity::{Address, AddressError, Destination};
use k8s_openapi::api::core::v1::Pod;

use super::Refusal;
use super::container::RESERVED_PORTS;
use crate::limits::{EXPOSED_PORTS_MAX, INLETS_MAX};

/// The annotations of one pod, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) inlets: Vec<Inlet>,
    pub(super) exposed_ports: Vec<u16>,
    pub(super) http_proxy_env: bool,
    pub(super) move_probes: bool,
}

/// Lower ports need CAP_NET_BIND_SERVICE (ip(7), `ip_unprivileged_port_start`),
/// and the restricted Pod Security Standard's sidecar runs without.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// A loopback port that leads to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inlet {
    pub(super) port: u16,
    pub(super) to: String,
}

/// What is wrong with an annotation, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// An inlet is not `PORT=HOST:PORT`.
    #[error(
        "{0:?} is not an inlet; write PORT=HOST:PORT, for example 1883=mosquitto.factory.svc.fairway.internal:1883"
    )]
    Inlet(String),
    /// The destination of an inlet is nobody who can be called.
    #[error(
        "{text:?} cannot be called ({error}); write NAME.NAMESPACE.device.fairway.internal:PORT or SERVICE.NAMESPACE.svc.fairway.internal:PORT"
    )]
    Destination {
        /// The destination.
        text: String,
        /// What is wrong with it.
        error: AddressError,
    },
    /// The destination of an inlet belongs to Fairway itself.
    #[error("{0:?} is not for applications; write the address of a device or a Service")]
    OwnAddress(String),
    /// A port is not a port.
    #[error("{0:?} is not a port; write a number from 1 to 65535")]
    Port(String),
    /// A port is given twice.
    #[error("port {0} is given twice")]
    Twice(u16),
    /// A port is one of the sidecar's.
    #[error("port {0} is the sidecar's own; choose another")]
    Reserved(u16),
    /// The sidecar may not listen there.
    #[error("port {0} needs a right that the sidecar does not have; choose one from 1024 up")]
    Privileged(u16),
    /// There are too many entries.
    #[error("{count} entries are too many; at most {max} are possible")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A switch is neither on nor off.
    #[error("{0:?} is neither \"true\" nor \"false\"")]
    Switch(String),
}

impl Wishes {
    /// Reads the annotations.
    pub(super) fn of(pod: &Pod) -> Result<Self, Refusal> {
        let read = |annotation: &'static str| {
            let text = pod.metadata.annotations.as_ref()?.get(annotation)?;
            Some((annotation, text.as_str()))
        };
        let wishes = Self {
            inlets: understood(read(labels::INLETS), inlets)?.unwrap_or_default(),
            exposed_ports: understood(read(labels::ALLOW_EXPOSED_PORTS), ports)?
                .unwrap_or_default(),
            http_proxy_env: understood(read(labels::HTTP_PROXY_ENV), switch)?.unwrap_or(false),
            move_probes: understood(read(labels::MOVE_PROBES), switch)?.unwrap_or(true),
        };
        Ok(wishes)
    }

    /// The inlets, as the sidecar reads them.
    pub(super) fn inlets_text(&self) -> String {
        let inlets = self.inlets.iter();
        let texts: Vec<String> = inlets
            .map(|inlet| format!("{}={}", inlet.port, inlet.to))
            .collect();
        texts.join(",")
    }

    /// The exposed ports, as the sidecar reads them.
    pub(super) fn exposed_ports_text(&self) -> String {
        let texts: Vec<String> = self.exposed_ports.iter().map(u16::to_string).collect();
        texts.join(",")
    }
}

fn understood<T>(
    found: Option<(&'static str, &str)>,
    parse: impl Fn(&str) -> Result<T, AnnotationError>,
) -> Result<Option<T>, Refusal> {
    let parsed = found.map(|(annotation, text)| {
        parse(text).map_err(|error| Refusal::Annotation { annotation, error })
    });
    parsed.transpose()
}

fn inlets(text: &str) -> Result<Vec<Inlet>, AnnotationError> {
    let entries = entries(text, INLETS_MAX)?;
    let mut inlets: Vec<Inlet> = Vec::with_capacity(entries.len());
    for entry in entries {
        let inlet = inlet(entry)?;
        if RESERVED_PORTS.contains(&inlet.port) {
            return Err(AnnotationError::Reserved(inlet.port));
        }
        if inlet.port < FIRST_UNPRIVILEGED_PORT {
            return Err(AnnotationError::Privileged(inlet.port));
        }
        if inlets.iter().any(|other| other.port == inlet.port) {
            return Err(AnnotationError::Twice(inlet.port));
        }
        inlets.push(inlet);
    }
    Ok(inlets)
}

fn inlet(entry: &str) -> Result<Inlet, AnnotationError> {
    let (port_text, to) = entry
        .split_once('=')
        .ok_or_else(|| AnnotationError::Inlet(entry.to_owned()))?;
    let port = port(port_text.trim())?;
    let text = to.trim().to_owned();
    match text.parse::<Destination>() {
        Ok(destination) => match destination.address {
            Address::Device { .. } | Address::Service { .. } | Address::Pod { .. } => {
                Ok(Inlet { port, to: text })
            }
            Address::Authority | Address::Relay => Err(AnnotationError::OwnAddress(text)),
        },
        Err(error) => Err(AnnotationError::Destination { text, error }),
    }
}

fn ports(text: &str) -> Result<Vec<u16>, AnnotationError> {
    entries(text, EXPOSED_PORTS_MAX)?
        .into_iter()
        .map(port)
        .collect()
}

fn port(text: &str) -> Result<u16, AnnotationError> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(AnnotationError::Port(text.to_owned())),
    }
}

fn switch(text: &str) -> Result<bool, AnnotationError> {
    text.trim()
        .parse()
        .map_err(|_| AnnotationError::Switch(text.to_owned()))
}

/// Entries between commas, without the empty ones.
fn entries(text: &str, max: usize) -> Result<Vec<&str>, AnnotationError> {
    let entries: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .collect();
    match entries.len() {
        count if count > max => Err(AnnotationError::TooMany { count, max }),
        _ => Ok(entries),
    }
}
