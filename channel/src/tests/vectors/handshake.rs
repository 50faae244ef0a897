//! `handshake.json`: a handshake, records, an ATTACH and a renewal.

use serde_json::{Value, json};

use super::{compare, hex, unhex};
use crate::{
    ConnectionId, StaticSecret, crypto,
    crypto::{Encapsulated, KemKey, Resolver},
    frame::{Frame, RenewPart},
    handshake::{EpochSecret, Established, Initiator, NOISE_NAME, Responder},
    packet::{self, FirstHeader},
    record::{RecordKey, Sealer},
};

/// One whole handshake and the first records after it.
#[test]
fn handshake() {
    compare("handshake.json", |kept| {
        // ML-KEM is the only part that is not made from seeds.
        let (secret, public, kem) = match kept.map(|kept| &kept["ml_kem_768"]) {
            Some(kept) => (
                unhex(&kept["decapsulation_key"]),
                unhex(&kept["encapsulation_key"]),
                Encapsulated {
                    ciphertext: unhex(&kept["ciphertext"]),
                    shared: unhex(&kept["shared_secret"]).into(),
                },
            ),
            None => {
                let key = KemKey::generate().unwrap();
                let kem = crypto::encapsulate(&key.public).unwrap();
                (key.secret_bytes().unwrap(), key.public.to_vec(), kem)
            }
        };
        handshake_vector(&secret, &public, kem)
    });
}

fn handshake_vector(secret: &[u8], public: &[u8], kem: Encapsulated) -> Value {
    let keys = [1, 2].map(|byte| StaticSecret::from_bytes([byte; 32]));
    let seeds = [[3; 32], [4; 32]];
    let header = FirstHeader {
        purpose: 1,
        dialled: "pump-7.factory.device.fairway.internal",
    };
    let hellos = [
        &b"responder's lean credential"[..],
        b"initiator's credential",
    ];
    let ml_kem = json!({
        "decapsulation_key": hex(secret),
        "encapsulation_key": hex(public),
        "ciphertext": hex(&kem.ciphertext),
        "shared_secret": hex(&kem.shared),
    });
    let psk = {
        let transcript = crypto::sha256(&[public, &kem.ciphertext]);
        crypto::hkdf::<32>(b"fairway/1 ml-kem-768 psk", &kem.shared, &[&transcript])
    };

    let prologue = header.encode();
    let outs = [prologue.clone(), vec![packet::SECOND], vec![packet::THIRD]];
    let run = Run {
        keys: &keys,
        seeds: &seeds,
        prologue: &prologue,
        hellos: [hellos[0], hellos[1]],
        outs,
        before: None,
    };
    let ([first, second, third], established) = run.go(secret, public, kem);

    json!({
        "noise": NOISE_NAME,
        "initiator": party(&keys[0], &seeds[0]),
        "responder": party(&keys[1], &seeds[1]),
        "purpose": header.purpose,
        "dialled": header.dialled,
        "prologue": hex(&prologue),
        "ml_kem_768": ml_kem,
        "psk": hex(&*psk),
        "hello_2": hex(hellos[0]),
        "hello_3": hex(hellos[1]),
        "packet_1": hex(&first),
        "packet_2": hex(&second),
        "packet_3": hex(&third),
        "handshake_hash": hex(&established.hash),
        "connection_id": ConnectionId::derive(&established.hash).to_string(),
        "epoch_secret": hex(established.secret.expose()),
        "to_responder": direction(&established.to_responder),
        "to_initiator": direction(&established.to_initiator),
        "attach": attach(&established),
        "renewal": renewal(&established, secret, public, &ml_kem),
    })
}

/// One handshake, of either kind.
struct Run<'a> {
    keys: &'a [StaticSecret; 2],
    seeds: &'a [[u8; 32]; 2],
    prologue: &'a [u8],
    hellos: [&'a [u8]; 2],
    /// What stands before each message.
    outs: [Vec<u8>; 3],
    before: Option<&'a EpochSecret>,
}

impl Run<'_> {
    fn go(self, secret: &[u8], public: &[u8], kem: Encapsulated) -> ([Vec<u8>; 3], Established) {
        let Self {
            keys,
            seeds,
            prologue,
            hellos,
            outs: [out_1, out_2, out_3],
            before,
        } = self;
        let skip = [out_1.len(), out_2.len(), out_3.len()];
        let key = KemKey::from_parts(secret, public).unwrap();
        let (initiator, first) =
            Initiator::start(&keys[0], &seeds[0], key, prologue, out_1).unwrap();
        let message = &first[skip[0]..];
        let encapsulate = |_: &[u8]| Ok(kem);
        let (responder, second) = Responder::answer(
            &keys[1],
            &seeds[1],
            prologue,
            message,
            hellos[0],
            out_2,
            encapsulate,
        )
        .unwrap();
        let (checking, hello) = initiator.read_second(&second[skip[1]..]).ok().unwrap();
        assert_eq!(hello, hellos[0]);
        assert_eq!(checking.remote_static(), keys[1].public());
        let (third, established) = checking.write_third(hellos[1], out_3, before).unwrap();
        let (hello, other) = responder
            .read_third(&third[skip[2]..], before)
            .ok()
            .unwrap();
        assert_eq!(hello, hellos[1]);
        assert_eq!(other.hash, established.hash);
        assert_eq!(other.remote_static, keys[0].public());
        assert_eq!(other.secret.expose(), established.secret.expose());
        ([first, second, third], established)
    }
}

/// An ATTACH of the initiator, as its record 3.
fn attach(established: &Established) -> Value {
    let mut sealer = Sealer::new(&established.to_responder);
    for _ in 0..3 {
        sealer.seal_alone(None, &[]).unwrap();
    }
    attach_of(&mut sealer, &ConnectionId::derive(&established.hash))
}

fn attach_of(sealer: &mut Sealer, id: &ConnectionId) -> Value {
    let mut plaintext = Vec::new();
    Frame::PathChallenge(*b"eight by").put(&mut plaintext);
    let number = sealer.next_number();
    let out = sealer.seal_alone(Some(id), &plaintext).unwrap();
    json!({ "number": number, "plaintext": hex(&plaintext), "packet": hex(&out) })
}

/// The renewal that makes epoch 1, with other static keys and the same KEM key
/// (which a real end never uses twice).
fn renewal(first: &Established, secret: &[u8], public: &[u8], ml_kem: &Value) -> Value {
    let keys = [5, 6].map(|byte| StaticSecret::from_bytes([byte; 32]));
    let seeds = [[7; 32], [8; 32]];
    let before = &first.secret;
    let prologue = before.renewal_prologue(1);
    let hellos = [
        &b"responder's newer credential"[..],
        b"initiator's newer credential",
    ];
    let kem = Encapsulated {
        ciphertext: unhex(&ml_kem["ciphertext"]),
        shared: unhex(&ml_kem["shared_secret"]).into(),
    };
    let run = Run {
        keys: &keys,
        seeds: &seeds,
        prologue: &prologue,
        hellos,
        outs: [const { Vec::new() }; 3],
        before: Some(before),
    };
    let (messages, established) = run.go(secret, public, kem);
    let parts = [RenewPart::First, RenewPart::Second, RenewPart::Third];
    let frames: Vec<Value> = parts
        .into_iter()
        .zip(&messages)
        .map(|(part, message)| {
            let mut out = Vec::new();
            Frame::Renew {
                epoch: 1,
                part,
                message,
            }
            .put(&mut out);
            json!(hex(&out))
        })
        .collect();
    // Packet numbers go on; only the type byte and the key change.
    let tenth = |old: &RecordKey, new: &RecordKey| {
        let mut sealer = Sealer::new(old);
        for _ in 0..10 {
            sealer.seal_alone(None, &[]).unwrap();
        }
        sealer.switch(new);
        let record = sealer.seal_alone(None, &[1]).unwrap();
        let record = json!({ "plaintext": "01", "packet": hex(&record) });
        (sealer, record)
    };
    let (mut sealer, to_responder) = tenth(&first.to_responder, &established.to_responder);
    let (_, to_initiator) = tenth(&first.to_initiator, &established.to_initiator);
    // The connection id is that of the first handshake for good.
    let attach = attach_of(&mut sealer, &ConnectionId::derive(&first.hash));
    let (key, iv) = established.to_responder.expose();
    let (other_key, other_iv) = established.to_initiator.expose();
    json!({
        "initiator": party(&keys[0], &seeds[0]),
        "responder": party(&keys[1], &seeds[1]),
        "prologue": hex(&prologue),
        "hello_2": hex(hellos[0]),
        "hello_3": hex(hellos[1]),
        "frames": frames,
        "handshake_hash": hex(&established.hash),
        "epoch_secret": hex(established.secret.expose()),
        "to_responder": { "key": hex(key), "iv": hex(iv) },
        "to_initiator": { "key": hex(other_key), "iv": hex(other_iv) },
        "record_10_to_responder": to_responder,
        "record_10_to_initiator": to_initiator,
        "attach": attach,
    })
}

fn party(key: &StaticSecret, seed: &[u8; 32]) -> Value {
    use snow::resolvers::CryptoResolver;
    let mut ephemeral = [0; 32];
    let mut random = Resolver::new(seed).resolve_rng().unwrap();
    random.try_fill_bytes(&mut ephemeral).unwrap();
    json!({
        "static_private": hex(key.expose()),
        "static_public": hex(&key.public()),
        "seed": hex(seed),
        "ephemeral_private": hex(&ephemeral),
        "ephemeral_public": hex(&crypto::x25519_public(&ephemeral)),
    })
}

fn direction(key: &RecordKey) -> Value {
    let mut sealer = Sealer::new(key);
    let records: Vec<Value> = ["01", "0201000000", "080004026869"]
        .into_iter()
        .map(|plaintext| {
            let number = sealer.next_number();
            let text = unhex(&json!(plaintext));
            let out = sealer.seal_alone(None, &text).unwrap();
            json!({ "number": number, "plaintext": plaintext, "packet": hex(&out) })
        })
        .collect();
    let (bytes, iv) = key.expose();
    json!({ "key": hex(bytes), "iv": hex(iv), "records": records })
}
