//! What a stream's OPEN asks for, and its header on the wire.

use minicbor::decode::{self, Decoder};
use minicbor::{Decode, Encode};

use crate::limits::TRACEPARENT_MAX;

/// What the opener of a stream asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Where the stream shall lead.
    pub target: OpenTarget,
    /// The W3C trace context of the call, carried through as it is.
    pub traceparent: Option<String>,
}

/// Where a stream leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenTarget {
    /// A port under the name that was dialled.
    Port(u16),
    /// The control messages of the authority or the relay.
    Control,
}

impl OpenRequest {
    /// A stream to a port.
    pub fn port(port: u16) -> Self {
        Self {
            target: OpenTarget::Port(port),
            traceparent: None,
        }
    }

    /// A stream for control messages.
    pub fn control() -> Self {
        Self {
            target: OpenTarget::Control,
            traceparent: None,
        }
    }

    /// With a trace context. One that is not printable ASCII of at most 128
    /// bytes is left out: a trace is never the reason for a failed call.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent.filter(|text| is_traceparent(text));
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let wire = WireOpen {
            target: match self.target {
                OpenTarget::Port(port) => WireTarget::Port(port),
                OpenTarget::Control => WireTarget::Control,
            },
            traceparent: self.traceparent.clone().filter(|text| is_traceparent(text)),
        };
        minicbor::to_vec(&wire).expect("encoding into a Vec cannot fail")
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, decode::Error> {
        let mut decoder = Decoder::new(bytes);
        let wire: WireOpen = decoder.decode()?;
        if decoder.position() != bytes.len() {
            return Err(decode::Error::message("bytes after the OPEN header"));
        }
        let target = match wire.target {
            WireTarget::Port(0) => return Err(decode::Error::message("port 0")),
            WireTarget::Port(port) => OpenTarget::Port(port),
            WireTarget::Control => OpenTarget::Control,
        };
        Ok(Self {
            target,
            traceparent: None,
        }
        .with_traceparent(wire.traceparent))
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct WireOpen {
    #[n(0)]
    target: WireTarget,
    #[n(1)]
    traceparent: Option<String>,
}

#[derive(Encode, Decode)]
enum WireTarget {
    #[n(0)]
    Port(#[n(0)] u16),
    #[n(1)]
    Control,
}

fn is_traceparent(text: &str) -> bool {
    text.len() <= TRACEPARENT_MAX && text.bytes().all(|b| b.is_ascii_graphic())
}
