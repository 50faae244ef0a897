//! The test vectors of SPEC.md: made here, kept in `testdata/`, and compared
//! on every run. `FAIRWAY_UPDATE=1 cargo test -p fairway-channel vectors`
//! writes them anew.

use serde_json::{Value, json};

use crate::{
    ConnectionId, StaticSecret, StreamId, crypto,
    crypto::{Encapsulated, KemKey, Resolver},
    frame::{self, Frame, RenewPart, Settings},
    handshake::{EpochSecret, Established, Initiator, NOISE_NAME, Responder},
    packet::{self, FirstHeader},
    record::{RecordKey, Sealer},
    varint,
};

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a hex string");
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Compares with the file, or writes it.
fn compare(name: &str, make: impl FnOnce(Option<&Value>) -> Value) {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    let kept = std::fs::read(&path).ok();
    let kept: Option<Value> = kept.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    if std::env::var_os("FAIRWAY_UPDATE").is_some() {
        let text = serde_json::to_string_pretty(&make(kept.as_ref())).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
        return;
    }
    let kept = kept.expect("run with FAIRWAY_UPDATE=1 once");
    let made = make(Some(&kept));
    assert!(made == kept, "{name} is stale; run with FAIRWAY_UPDATE=1");
}

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
        "renewal": renewal(&established.secret, secret, public, &ml_kem),
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
    let id = ConnectionId::derive(&established.hash);
    let mut plaintext = Vec::new();
    Frame::PathChallenge(*b"eight by").put(&mut plaintext);
    let number = sealer.next_number();
    let out = sealer.seal_alone(Some(&id), &plaintext).unwrap();
    json!({ "number": number, "plaintext": hex(&plaintext), "packet": hex(&out) })
}

/// The renewal that makes epoch 1, with other static keys and the same KEM key
/// (which a real end never uses twice).
fn renewal(before: &EpochSecret, secret: &[u8], public: &[u8], ml_kem: &Value) -> Value {
    let keys = [5, 6].map(|byte| StaticSecret::from_bytes([byte; 32]));
    let seeds = [[7; 32], [8; 32]];
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
    let mut sealer = Sealer::new(&established.to_responder);
    for _ in 0..10 {
        sealer.seal_alone(None, &[]).unwrap();
    }
    sealer.switch(&established.to_responder);
    let record = sealer.seal_alone(None, &[1]).unwrap();
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
        "record_10_to_responder": { "plaintext": "01", "packet": hex(&record) },
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

/// Every frame once or more, and what must be refused.
#[test]
fn frames() {
    compare("frames.json", |_| {
        let mut ack = Vec::new();
        frame::put_ack(&mut ack, [90..101, 85..88, 7..8].iter(), 3, 1500);
        let Ok(Frame::Ack(ack)) = frame::take(&mut &ack[..]) else {
            panic!("not an ACK")
        };
        let stream = StreamId::from_wire(4);
        let other = StreamId::from_wire(16_385);
        let good: Vec<Value> = [
            Frame::Padding(3),
            Frame::Ping,
            Frame::Ack(ack),
            Frame::Hello(b"a credential"),
            Frame::Settings(Settings {
                max_data: 4 << 20,
                max_stream_data: 1 << 20,
                max_streams: 1024,
            }),
            Frame::Open {
                stream,
                header: b"\x01\x02",
            },
            Frame::Accept { stream: other },
            Frame::Stream {
                stream,
                offset: 0,
                fin: false,
                data: b"hello",
            },
            Frame::Stream {
                stream: other,
                offset: 1 << 30,
                fin: true,
                data: b"",
            },
            Frame::Reset {
                stream,
                final_size: 1000,
                code: 0x101,
                reason: "policy-denied",
            },
            Frame::Stop {
                stream,
                code: 0,
                reason: "",
            },
            Frame::MaxData(8 << 20),
            Frame::MaxStreamData {
                stream,
                max: varint::MAX,
            },
            Frame::MaxStreams(2048),
            Frame::Datagram(b"\x00\xff"),
            Frame::Close {
                code: u32::MAX,
                reason: "fertig ✓",
            },
            Frame::PathChallenge([1, 2, 3, 4, 5, 6, 7, 8]),
            Frame::PathResponse([1, 2, 3, 4, 5, 6, 7, 8]),
            Frame::Renew {
                epoch: 300,
                part: RenewPart::Third,
                message: b"a handshake message",
            },
            Frame::RenewRequest,
        ]
        .iter()
        .map(good_frame)
        .collect();
        let refused: Vec<Value> = REFUSED.iter().map(|(why, hex)| refused(why, hex)).collect();
        json!({ "frames": good, "refused": refused })
    });
}

const REFUSED: [(&str, &str); 12] = [
    ("unknown frame type", "16"),
    ("challenge of 7 bytes", "1201020304050607"),
    ("part 4 of a renewal", "14010400"),
    ("part 0 of a renewal", "14010000"),
    ("frame type is a reserved one", "07"),
    ("cut short", "0800"),
    ("data shorter than its length", "08000005686921"),
    ("stream id not in its shortest form", "064004"),
    ("ACK range below zero", "0203000004"),
    ("ACK gap below zero", "0209000105 0300"),
    ("reason not UTF-8", "110001ff"),
    ("code larger than 32 bits", "11c00000010000000000"),
];

fn refused(why: &str, text: &str) -> Value {
    let text = text.replace(' ', "");
    let bytes = unhex(&json!(text));
    assert!(frame::take(&mut &bytes[..]).is_err(), "{why}");
    json!({ "why": why, "bytes": text })
}

fn good_frame(frame: &Frame<'_>) -> Value {
    let mut out = Vec::new();
    frame.put(&mut out);
    assert_eq!(&frame::take(&mut &out[..]).unwrap(), frame);
    let mut value = fields(frame);
    value["bytes"] = json!(hex(&out));
    value
}

fn fields(frame: &Frame<'_>) -> Value {
    match *frame {
        Frame::Padding(count) => json!({ "frame": "PADDING", "count": count }),
        Frame::Ping => json!({ "frame": "PING" }),
        Frame::Ack(ref ack) => json!({
            "frame": "ACK",
            "delay": ack.delay,
            "ranges": ack.ranges().map(|(low, high)| json!([low, high])).collect::<Vec<_>>(),
        }),
        Frame::Hello(hello) => json!({ "frame": "HELLO", "hello": hex(hello) }),
        Frame::Settings(settings) => json!({
            "frame": "SETTINGS",
            "max_data": settings.max_data,
            "max_stream_data": settings.max_stream_data,
            "max_streams": settings.max_streams,
        }),
        Frame::Open { stream, header } => {
            json!({ "frame": "OPEN", "stream": stream.get(), "header": hex(header) })
        }
        Frame::Accept { stream } => json!({ "frame": "ACCEPT", "stream": stream.get() }),
        Frame::Stream {
            stream,
            offset,
            fin,
            data,
        } => json!({
            "frame": "STREAM",
            "stream": stream.get(),
            "offset": offset,
            "fin": fin,
            "data": hex(data),
        }),
        Frame::Reset {
            stream,
            final_size,
            code,
            reason,
        } => json!({
            "frame": "RESET",
            "stream": stream.get(),
            "final_size": final_size,
            "code": code,
            "reason": reason,
        }),
        Frame::Stop {
            stream,
            code,
            reason,
        } => json!({ "frame": "STOP", "stream": stream.get(), "code": code, "reason": reason }),
        Frame::MaxData(max) => json!({ "frame": "MAX_DATA", "max": max }),
        Frame::MaxStreamData { stream, max } => {
            json!({ "frame": "MAX_STREAM_DATA", "stream": stream.get(), "max": max })
        }
        Frame::MaxStreams(max) => json!({ "frame": "MAX_STREAMS", "max": max }),
        Frame::Datagram(data) => json!({ "frame": "DATAGRAM", "data": hex(data) }),
        Frame::Close { code, reason } => {
            json!({ "frame": "CLOSE", "code": code, "reason": reason })
        }
        Frame::PathChallenge(data) => json!({ "frame": "PATH_CHALLENGE", "data": hex(&data) }),
        Frame::PathResponse(data) => json!({ "frame": "PATH_RESPONSE", "data": hex(&data) }),
        Frame::Renew {
            epoch,
            part,
            message,
        } => json!({
            "frame": "RENEW",
            "epoch": epoch,
            "part": match part {
                RenewPart::First => 1,
                RenewPart::Second => 2,
                RenewPart::Third => 3,
            },
            "message": hex(message),
        }),
        Frame::RenewRequest => json!({ "frame": "RENEW_REQUEST" }),
    }
}
