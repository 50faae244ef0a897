//! What the tests of every codec share: generators of domain values, and the
//! checks that each message type must pass.

use std::fmt::Debug;

use fairway_identity::{
    Address, Ed25519Key, HostPort, Label, RelayAddress, Serial, Signer, SpiffeId, Transport, Uid,
    UnixSeconds, VerifyingKey,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::limits::REASON_TEXT_MAX;
use crate::wire::{DecodeError, FrameReader, Message, frame};
use crate::{Reason, wire};

/// Round trip, every truncation, trailing bytes, a foreign version, and the
/// same through a stream in pieces.
pub(crate) fn check_codec<M: Message + PartialEq + Debug>(message: &M) {
    let bytes = message.to_bytes().expect("a valid message can be sent");
    assert_eq!(
        &M::from_bytes(&bytes).expect("what was sent can be read"),
        message
    );
    // Each truncation; of the largest messages, every so many.
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 600) {
        assert!(
            M::from_bytes(&bytes[..end]).is_err(),
            "truncated to {end} of {}",
            bytes.len()
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(
        M::from_bytes(&longer),
        Err(DecodeError::TrailingBytes | DecodeError::TooLarge { .. })
    ));
    let mut foreign = bytes;
    foreign[0] = wire::VERSION + 1;
    assert!(matches!(
        M::from_bytes(&foreign),
        Err(DecodeError::Version { got: 2 })
    ));
    check_stream(message);
}

/// Two messages in a row, in small pieces.
fn check_stream<M: Message + PartialEq + Debug>(message: &M) {
    let one = frame(message).expect("a valid message can be framed");
    let mut reader = FrameReader::new();
    let mut seen = 0;
    let twice = [&one[..], &one[..]].concat();
    for piece in twice.chunks(1 + one.len() / 600) {
        reader.push(piece);
        while let Some(got) = reader.next_message::<M>().expect("a good stream") {
            assert_eq!(&got, message);
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
    assert!(reader.is_empty());
}

/// A length beyond the limit is refused before anything is read or kept.
pub(crate) fn check_oversize<M: Message + Debug>() {
    let mut reader = FrameReader::new();
    let length = u32::try_from(M::MAX + 1).expect("limits are small");
    reader.push(&length.to_be_bytes());
    assert!(matches!(
        reader.next_message::<M>(),
        Err(DecodeError::TooLarge { .. })
    ));
    assert!(matches!(
        M::from_bytes(&vec![0; M::MAX + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
}

/// Whatever comes, no panic; and what is understood can be said again.
pub(crate) fn check_garbage<M: Message + PartialEq + Debug>(bytes: &[u8]) {
    for candidate in [bytes.to_vec(), [&[wire::VERSION], bytes].concat()] {
        if let Ok(message) = M::from_bytes(&candidate) {
            let again = message.to_bytes().expect("a valid message can be sent");
            assert_eq!(M::from_bytes(&again).expect("readable"), message);
        }
    }
}

/// Bytes that are likely to get past the first checks: CBOR heads of all
/// kinds, with small and with absurd lengths.
pub(crate) fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        any::<u8>(),
        0u8..24,
        (0u8..8, 0u8..6).prop_map(|(major, small)| major << 5 | small),
        Just(0x9b),
        Just(0xbb),
        Just(0x5b),
        Just(0x9f),
        Just(0xff),
        Just(0xf6),
    ];
    vec(head, 0..48)
}

pub(crate) fn label() -> impl Strategy<Value = Label> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?".prop_map(|text| Label::new(&text).expect("a label"))
}

pub(crate) fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        Just(Address::Authority),
        Just(Address::Relay),
        (label(), label()).prop_map(|(namespace, name)| Address::Device { namespace, name }),
        (label(), label()).prop_map(|(namespace, service)| Address::Service { namespace, service }),
        (label(), label(), label()).prop_map(|(namespace, service, pod)| Address::Pod {
            namespace,
            service,
            pod
        }),
    ]
}

pub(crate) fn reason() -> impl Strategy<Value = Reason> {
    ("[a-z]{1,8}(-[a-z]{1,8}){0,3}", ".{0,80}").prop_map(|(word, text)| Reason::new(&word, text))
}

pub(crate) fn longest_reason() -> Reason {
    Reason::new("x", "y".repeat(REASON_TEXT_MAX))
}

pub(crate) fn relay_address() -> impl Strategy<Value = RelayAddress> {
    let host = "[a-z]{1,10}\\.[a-z]{2,5}";
    (prop::sample::select(&Transport::ALL), host, 1..=u16::MAX).prop_map(
        |(transport, host, port)| {
            let at = HostPort::new(&host, port).expect("a host and port");
            RelayAddress::new(transport, at)
        },
    )
}

pub(crate) fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    (label(), label()).prop_map(|(namespace, name)| {
        format!("spiffe://fairway.local/ns/{namespace}/device/{name}")
            .parse()
            .expect("an ID")
    })
}

pub(crate) fn uid() -> impl Strategy<Value = Uid> {
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}".prop_map(|text| Uid::new(&text).expect("a UID"))
}

pub(crate) fn serial() -> impl Strategy<Value = Serial> {
    any::<[u8; 16]>().prop_map(Serial)
}

pub(crate) fn time() -> impl Strategy<Value = UnixSeconds> {
    any::<u64>().prop_map(UnixSeconds)
}

pub(crate) fn key() -> impl Strategy<Value = VerifyingKey> {
    any::<[u8; 32]>().prop_map(|seed| Ed25519Key::from_seed(seed).verifying_key())
}
