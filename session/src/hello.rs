//! The hello: what each side shows of itself inside the handshake.

use minicbor::decode::{self, Decoder};
use minicbor::{Decode, Encode};

use fairway_identity::proof::{ProofError, TicketHolder, TicketId};

use crate::limits::HELLO_MAX;

/// A hello on the wire. Its form (lean or full) follows from its place in the
/// handshake and is not said.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Hello {
    /// The credential; `None` for a side without one.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) credential: Option<Vec<u8>>,
    /// The newest trust set that the sender knows, when the receiver may not.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) trust_set: Option<Vec<u8>>,
    /// Names the sender's process, so that a reopened circuit can find it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) instance: [u8; 16],
    /// Of a dialler without a credential: that it holds a ticket.
    #[n(3)]
    pub(crate) ticket: Option<WireTicket>,
}

/// A [`TicketHolder`] on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct WireTicket {
    /// COSE_Key of the ticket.
    #[cbor(n(0), with = "minicbor::bytes")]
    key: Vec<u8>,
    /// By it, over the handshake key.
    #[cbor(n(1), with = "minicbor::bytes")]
    signature: Vec<u8>,
}

impl From<&TicketHolder> for WireTicket {
    fn from(holder: &TicketHolder) -> Self {
        let (key, signature) = holder.to_parts();
        let signature = signature.to_vec();
        Self { key, signature }
    }
}

impl WireTicket {
    /// The ticket that vouches for `proven_key`.
    pub(crate) fn verify(&self, proven_key: &[u8; 32]) -> Result<TicketId, ProofError> {
        TicketHolder::from_parts(&self.key, &self.signature)?.verify(proven_key)
    }
}

impl Hello {
    /// The bytes; a trust set that does not fit is left out, since the other
    /// side then says that it cannot verify us.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let bytes = encode(self);
        if bytes.len() <= HELLO_MAX {
            return bytes;
        }
        encode(&Self {
            trust_set: None,
            ..self.clone()
        })
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, decode::Error> {
        let mut decoder = Decoder::new(bytes);
        let hello = decoder.decode()?;
        if decoder.position() != bytes.len() {
            return Err(decode::Error::message("bytes after the hello"));
        }
        Ok(hello)
    }
}

fn encode(hello: &Hello) -> Vec<u8> {
    minicbor::to_vec(hello).expect("encoding into a Vec cannot fail")
}
