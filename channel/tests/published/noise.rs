//! Published Noise vectors through our resolver: every pattern of cacophony's
//! and snow's files that uses X25519, AES-256-GCM and SHA-256, with psk
//! modifiers too. Each message of both sides must come out byte for byte.
//!
//! Where `testdata/noise.json` is from: `testdata/README.md`.

use serde_json::Value;
use snow::params::{HandshakeModifier, NoiseParams};
use snow::{Builder, HandshakeState};

use crate::crypto::Resolver;

/// A prologue, key or message in a vector.
fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a string of hexadecimal digits");
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn vectors() -> Vec<Value> {
    let text = include_str!("../../testdata/noise.json");
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_published_vector_of_our_primitives_comes_out_byte_for_byte() {
    let vectors = vectors();
    // Cacophony has 59 patterns with these primitives, snow 51.
    assert_eq!(vectors.len(), 110);
    for vector in &vectors {
        check(vector);
    }
}

#[test]
fn our_own_pattern_is_among_them() {
    let ours = |vector: &Value| vector["protocol_name"] == "Noise_XXpsk3_25519_AESGCM_SHA256";
    assert!(vectors().iter().any(ours));
}

#[test]
fn a_changed_byte_of_any_handshake_message_of_our_pattern_is_noticed() {
    let vectors = vectors();
    let vector = vectors
        .iter()
        .find(|vector| vector["protocol_name"] == "Noise_XXpsk3_25519_AESGCM_SHA256")
        .unwrap();
    let messages = vector["messages"].as_array().unwrap();
    for index in 0..3 {
        let whole = bytes(&messages[index]["ciphertext"]);
        for at in 0..whole.len() {
            // What is not sealed (an ephemeral key) is noticed at the latest
            // by the first sealed bytes behind it.
            let mut message = whole.clone();
            message[at] ^= 1;
            let [mut init, mut resp] = [true, false].map(|initiator| side(vector, initiator));
            for (i, earlier) in messages[..index].iter().enumerate() {
                let (from, to) = turn(i, &mut init, &mut resp);
                from.write_message(&bytes(&earlier["payload"]), &mut [0; 512])
                    .unwrap();
                to.read_message(&bytes(&earlier["ciphertext"]), &mut [0; 512])
                    .unwrap();
            }
            let (_, to) = turn(index, &mut init, &mut resp);
            assert!(
                to.read_message(&message, &mut [0; 512]).is_err(),
                "message {index}, byte {at}"
            );
        }
    }
}

fn check(vector: &Value) {
    let name = vector["protocol_name"].as_str().unwrap();
    let params: NoiseParams = name.parse().unwrap();
    let one_way = params.handshake.pattern.is_oneway();
    let [mut init, mut resp] = [true, false].map(|initiator| side(vector, initiator));
    let mut messages = vector["messages"].as_array().unwrap().iter().enumerate();

    let (mut out, mut read) = ([0; 1024], [0; 1024]);
    while !init.is_handshake_finished() {
        let (i, message) = messages.next().unwrap();
        let (payload, sealed) = (bytes(&message["payload"]), bytes(&message["ciphertext"]));
        let (from, to) = turn(i, &mut init, &mut resp);
        let written = from.write_message(&payload, &mut out).unwrap();
        assert_eq!(out[..written], sealed, "{name}, message {i}");
        let length = to.read_message(&sealed, &mut read).unwrap();
        assert_eq!(read[..length], payload, "{name}, message {i}");
    }
    assert!(resp.is_handshake_finished());
    assert_eq!(init.get_handshake_hash(), resp.get_handshake_hash());
    if let Some(hash) = vector.get("handshake_hash") {
        assert_eq!(init.get_handshake_hash(), bytes(hash), "{name}");
    }

    let (mut init, mut resp) = (
        init.into_transport_mode().unwrap(),
        resp.into_transport_mode().unwrap(),
    );
    let mut after = 0;
    for (i, message) in messages {
        let (payload, sealed) = (bytes(&message["payload"]), bytes(&message["ciphertext"]));
        let (from, to) = match one_way || i % 2 == 0 {
            true => (&mut init, &mut resp),
            false => (&mut resp, &mut init),
        };
        let written = from.write_message(&payload, &mut out).unwrap();
        assert_eq!(out[..written], sealed, "{name}, message {i}");
        let length = to.read_message(&sealed, &mut read).unwrap();
        assert_eq!(read[..length], payload, "{name}, message {i}");
        after += 1;
    }
    assert!(after > 0, "{name} has messages after the handshake");
}

/// One side of a vector, before its first message.
fn side(vector: &Value, initiator: bool) -> HandshakeState {
    let side = if initiator { "init" } else { "resp" };
    let given = |what: &str| vector.get(format!("{side}_{what}")).map(bytes);
    let params: NoiseParams = vector["protocol_name"].as_str().unwrap().parse().unwrap();
    let (private, ephemeral) = (given("static"), given("ephemeral"));
    let (remote, prologue) = (given("remote_static"), given("prologue").unwrap());
    let psks: Vec<[u8; 32]> = vector[format!("{side}_psks")]
        .as_array()
        .map(|psks| psks.iter().map(|psk| bytes(psk).try_into().unwrap()))
        .into_iter()
        .flatten()
        .collect();

    // The seed is not drawn from: the vector has the ephemeral keys.
    let resolver = Resolver::new(&[0; 32]);
    let mut builder = Builder::with_resolver(params.clone(), Box::new(resolver))
        .prologue(&prologue)
        .unwrap();
    if let Some(key) = &private {
        builder = builder.local_private_key(key).unwrap();
    }
    if let Some(key) = &remote {
        builder = builder.remote_public_key(key).unwrap();
    }
    if let Some(key) = &ephemeral {
        builder = builder.fixed_ephemeral_key_for_testing_only(key);
    }
    let mut psks = psks.iter();
    for modifier in params.handshake.modifiers.list {
        if let HandshakeModifier::Psk(place) = modifier {
            builder = builder.psk(place, psks.next().unwrap()).unwrap();
        }
    }
    match initiator {
        true => builder.build_initiator(),
        false => builder.build_responder(),
    }
    .unwrap()
}

/// Who writes message `i`, and who reads it.
fn turn<'a>(
    i: usize,
    init: &'a mut HandshakeState,
    resp: &'a mut HandshakeState,
) -> (&'a mut HandshakeState, &'a mut HandshakeState) {
    match i % 2 {
        0 => (init, resp),
        _ => (resp, init),
    }
}
