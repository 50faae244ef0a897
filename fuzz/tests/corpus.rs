//! Replays the corpora of all entries, and the neighbourhood of each file.
//!
//! `FAIRWAY_UPDATE=1` writes the seeds below into `corpus/` anew. What a fuzzer
//! found is added there by hand, under a name that says what it is.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::fs;
use std::path::PathBuf;

use fairway_control::authority::{Ack, Request, Response};
use fairway_control::front::Preamble;
use fairway_control::link::{CircuitId, ToEndpoint, ToRelay};
use fairway_control::update::{Door, Publisher, State, Watcher};
use fairway_control::{Message, Reason, frame, reason};
use fairway_fuzz::{ENTRIES, Script, world};
use fairway_identity::{Label, SignedTime, Ticket};
use fairway_policy as policy;
use proptest::prelude::*;

fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", name]
        .iter()
        .collect()
}

#[test]
fn the_corpora_are_survived() {
    for (name, entry) in ENTRIES {
        if std::env::var_os("FAIRWAY_UPDATE").is_some() {
            fs::create_dir_all(folder(name)).unwrap();
            for (seed, bytes) in seeds(name) {
                fs::write(folder(name).join(seed), bytes).unwrap();
            }
        }
        let mut files: Vec<_> = fs::read_dir(folder(name))
            .unwrap_or_else(|error| panic!("no corpus of {name}: {error}"))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for path in files {
            let data = fs::read(&path).unwrap();
            entry(&data);
            // Its neighbourhood, a few places of it: the fuzzer does the rest.
            for at in (0..data.len()).step_by(1 + data.len() / 12) {
                let mut near = data.clone();
                near[at] = near[at].wrapping_add(1);
                entry(&near);
                entry(&data[..at]);
            }
        }
    }
}

#[test]
fn every_corpus_belongs_to_an_entry() {
    for file in fs::read_dir(folder("")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(ENTRIES.iter().any(|(entry, _)| *entry == name), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..400)) {
        for (_, entry) in ENTRIES {
            entry(&data);
        }
    }
}

/// A script ends in zeros, never in a panic.
#[test]
fn a_script_that_is_over_goes_on_with_zeros() {
    let mut script = Script::new(&[7, 1]);
    assert_eq!((script.byte(), script.below(1000)), (7, 256));
    assert!(script.is_over());
    assert_eq!(
        (script.byte(), script.below(9), script.piece().len()),
        (0, 0, 0)
    );
}

// === seeds ===

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn seeds(name: &str) -> Seeds {
    match name {
        "control_messages" => messages(),
        "control_stream" => {
            let two = [frame(&open()).unwrap(), frame(&open()).unwrap()].concat();
            vec![
                ("two-messages", pieces([&two[..9], &two[9..]])),
                ("too-long", pieces([&[0, 255, 0, 0][..]])),
            ]
        }
        "control_update" => vec![
            ("all-sections", update_script(&[0, 1, 2, 3, 4, 5, 6, 7])),
            ("changes-after-a-snapshot", update_script(&[4, 4, 1])),
        ],
        "credential" => credentials(),
        "device_config" => device_configs(),
        "http_request" => http_requests(),
        "inlets" => texts(&[
            ("one", "1883=mosquitto.factory.svc.fairway.internal:1883"),
            (
                "two",
                "8080=collector.factory.svc.fairway.internal:8080,9100=pump-7.factory.device.fairway.internal:9100",
            ),
            ("no-port", "1883=mosquitto.factory.svc.fairway.internal"),
            ("zero", "0=a.b.svc.fairway.internal:1"),
        ]),
        "link_frames" => vec![
            (
                "two-circuits",
                pieces([&DATA_ON_2[..], &DATA_ON_4, &DATA_ON_2]),
            ),
            (
                "header-in-two-pieces",
                pieces([&DATA_ON_2[..3], &DATA_ON_2[3..]]),
            ),
            ("too-long", pieces([&[0, 255, 255, 255, 0, 0, 0, 2][..]])),
            ("unknown-type", pieces([&[9, 0, 0, 1, 0, 0, 0, 2, 1][..]])),
        ],
        "names" => texts(&[
            ("device-id", "spiffe://t.local/ns/factory/device/pump-7"),
            ("workload-id", "spiffe://t.local/ns/factory/sa/my.account"),
            ("device", "pump-7.factory.device.fairway.internal"),
            ("pod", "db-0.db.factory.svc.fairway.internal:5432"),
            ("own", "authority.fairway.internal"),
            ("ipv6", "[2001:db8::1]:7440"),
            ("relay", "quic://relay.example:7440"),
            ("too-long-label", &"a".repeat(64)),
        ]),
        "policy" => policies(),
        "relay_core" => relay_scripts(),
        "session_datagram" => vec![
            (
                "of-both",
                pieces([&b"\x00one"[..], b"\x02two", b"\x00", b"\x00more"]),
            ),
            (
                "of-nobody",
                pieces([&b"\x00one"[..], b"\x01x", &[0xff; 8], &[0x7f, 0xff, 1]]),
            ),
            (
                "a-long-form",
                pieces([&b"\x00one"[..], &[0x40, 0, 7], b"\x00two"]),
            ),
            ("nothing", pieces([&b"\x00one"[..], b""])),
        ],
        "session_hello_to_answerer" => vec![
            ("anonymous", hello(None)),
            (
                "another-key",
                hello(Some(&full("ns/factory/device/pump-7", [1; 32]))),
            ),
            ("cut", hello(None)[..7].to_vec()),
        ],
        "session_hello_to_dialler" => {
            let lean = world::credentials("ns/factory/sa/collector", &["collector"], [1; 32]);
            vec![(
                "another-key",
                [
                    &[220][..],
                    &hello(Some(&lean[0]))[..],
                    &hello(Some(&lean[1])),
                ]
                .concat(),
            )]
        }
        "session_open" => vec![
            ("a-port", pieces([&[0xa1, 0, 0x82, 0, 0x81, 0x18, 80][..]])),
            ("control", pieces([&[0xa1, 0, 0x82, 1, 0x80][..]])),
            ("port-0", pieces([&[0xa1, 0, 0x82, 0, 0x81, 0][..]])),
            (
                "traced",
                pieces([&b"\xa2\x00\x82\x00\x81\x18\x50\x01\x6400-x"[..]]),
            ),
        ],
        "signed_objects" => {
            let [lean, full] = world::credentials("ns/factory/device/pump-7", &[], [42; 32]);
            vec![
                ("lean", lean),
                ("full", full),
                ("trust-set", world::trust().bytes().to_vec()),
                ("cose-key", world::trust_set().root.to_cose_key()),
                ("time", signed_time()),
            ]
        }
        "signed_time" => vec![("time", payload(&signed_time()))],
        "ticket" => tickets(),
        "trust_set" => vec![
            ("the-one", payload(world::trust().bytes())),
            ("empty", vec![0xa0]),
        ],
        "channel_pair" => vec![
            ("one-stream", vec![1, 10, 2, 0, 200, 0, 1, 0, 0, 3, 0, 0]),
            ("lossy", (0..120_u8).map(|i| i.wrapping_mul(37)).collect()),
        ],
        other => panic!("no seeds for {other}"),
    }
}

const DATA_ON_2: [u8; 11] = [0, 0, 0, 3, 0, 0, 0, 2, 4, 5, 6];
const DATA_ON_4: [u8; 9] = [0, 0, 0, 1, 0, 0, 0, 4, 7];

/// Each piece after its length, as `Script::piece` reads them.
fn pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        out.push(u8::try_from(piece.len()).unwrap());
        out.extend_from_slice(piece);
    }
    out
}

fn texts(texts: &[(&'static str, &str)]) -> Seeds {
    let bytes = |&(name, text): &(&'static str, &str)| (name, text.as_bytes().to_vec());
    texts.iter().map(bytes).collect()
}

fn open() -> ToRelay {
    let collector = "collector.factory.svc.fairway.internal";
    // [2, [2, name]]: fields that came later are optional.
    let mut bytes = vec![1, 0x82, 2, 0x82, 2];
    world::head(&mut bytes, 3, collector.len());
    bytes.extend_from_slice(collector.as_bytes());
    ToRelay::from_bytes(&bytes).unwrap()
}

fn messages() -> Seeds {
    let refused = ToEndpoint::Refused {
        circuit: CircuitId(2),
        reason: Reason::new(reason::NOT_HERE, "nobody has this name"),
    };
    let update = Response::from_bytes(&update_bytes()).unwrap();
    let version = match &update {
        Response::Update(update) => update.version(),
        _ => panic!("an update"),
    };
    let ack = Ack {
        version,
        problem: None,
    };
    vec![
        ("open", open().to_bytes().unwrap()),
        ("refused", refused.to_bytes().unwrap()),
        (
            "get-time",
            Request::GetTime { nonce: [7; 16] }.to_bytes().unwrap(),
        ),
        ("update", update.to_bytes().unwrap()),
        ("ack", ack.to_bytes().unwrap()),
        ("local", Preamble::Local.to_bytes().unwrap()),
    ]
}

/// A state with something in every section.
fn state() -> State {
    State {
        trust_set: world::trust().bytes().to_vec(),
        policies: policy_set(),
        doors: vec![Door {
            service: Label::new("collector").unwrap(),
            port: 80,
            target_port: 8080,
        }],
        ready: true,
        relays: vec!["198.18.0.1:7440".parse().unwrap()],
        names: vec!["collector.factory.svc.fairway.internal".parse().unwrap()],
        ..State::default()
    }
}

fn update_bytes() -> Vec<u8> {
    let mut publisher = Publisher::new(1);
    publisher.set(&state()).unwrap();
    let update = publisher.poll(&mut Watcher::new(None)).unwrap();
    Response::Update(update).to_bytes().unwrap()
}

/// The content of one section, cut out of the update that has them all.
fn section(wanted: u8) -> Vec<u8> {
    let bytes = update_bytes();
    // [2, [{0: [1, 1], 2: {section: bytes, ...}}]]: found by what its head
    // must be, as this is no place for another parser.
    for at in 0..bytes.len() {
        let (length, start) = match bytes.get(at..at + 4) {
            Some(&[id, head @ 0x40..0x58, ..]) if id == wanted => {
                (usize::from(head - 0x40), at + 2)
            }
            Some(&[id, 0x58, low, _]) if id == wanted => (usize::from(low), at + 3),
            Some(&[id, 0x59, high, low]) if id == wanted => {
                (usize::from(u16::from_be_bytes([high, low])), at + 4)
            }
            _ => continue,
        };
        if at > 8 && start + length <= bytes.len() {
            return bytes[start..start + length].to_vec();
        }
    }
    Vec::new()
}

fn update_script(sections: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &id in sections {
        let content = section(id);
        let content = &content[..content.len().min(255)];
        out.push(id);
        out.push(u8::try_from(content.len()).unwrap());
        out.extend_from_slice(content);
    }
    out
}

fn full(path: &str, key: [u8; 32]) -> Vec<u8> {
    let [_, full] = world::credentials(path, &[], key);
    full
}

/// The payload of a signed object: what lies before the signature.
fn payload(signed: &[u8]) -> Vec<u8> {
    let before = &signed[..signed.len() - 66];
    // From behind the empty unprotected header.
    let start = before.iter().position(|&byte| byte == 0xa0).unwrap() + 1;
    match before[start] {
        0x58 => before[start + 2..].to_vec(),
        0x59 => before[start + 3..].to_vec(),
        _ => before[start + 1..].to_vec(),
    }
}

fn credentials() -> Seeds {
    let with_form = |form: u8, signed: &[u8]| [&[form][..], &payload(signed)].concat();
    let [lean, device] = world::credentials("ns/factory/device/pump-7", &[], [42; 32]);
    let [_, workload] = world::credentials("ns/factory/sa/collector", &["collector"], [42; 32]);
    let [_, relay] = world::credentials("ns/fairway-system/sa/fairway-relay", &[], [42; 32]);
    vec![
        ("lean", with_form(1, &lean)),
        ("device", with_form(0, &device)),
        ("workload", with_form(0, &workload)),
        ("relay", with_form(0, &relay)),
        ("lean-as-full", with_form(0, &lean)),
    ]
}

fn signed_time() -> Vec<u8> {
    SignedTime::sign(&world::issuer(), &[7; 16], world::NOW).unwrap()
}

fn tickets() -> Seeds {
    let ticket = Ticket::new(
        vec!["198.18.0.1:7440".parse().unwrap()],
        "t.local".parse().unwrap(),
        world::pin(),
        Label::new("factory").unwrap(),
        Label::new("pump-7").unwrap(),
        [5; 32],
    )
    .unwrap();
    let text = ticket.to_string();
    vec![
        ("good", text.clone().into_bytes()),
        ("in-two-lines", text.replacen('a', "a\n ", 3).into_bytes()),
        ("cut", text.as_bytes()[..60].to_vec()),
    ]
}

fn device_configs() -> Seeds {
    let example = include_str!("../../examples/device.yaml");
    texts(&[
        ("example", example),
        ("empty", ""),
        (
            "twice",
            "services:\n- {name: a, to: \"127.0.0.1:1\", port: 1}\n- {name: a, to: \"127.0.0.1:1\", port: 2}\n",
        ),
        ("proxy-for-all", "proxy: \"0.0.0.0:7480\"\n"),
        ("anchors", "a: &a [1]\nb: [*a, *a]\n"),
    ])
}

fn http_requests() -> Seeds {
    texts(&[
        ("get", "GET /v1/readings/7?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "te-and-cl",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("dots", "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "encoded",
            "GET /a%2fb HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ),
        (
            "forged-peer",
            "GET / HTTP/1.1\r\nFairway_Peer: me\r\nConnection: fairway-peer, x\r\nX: 1\r\n\r\n",
        ),
    ])
}

fn policy_set() -> policy::PolicySet {
    let rule = policy::HttpRule {
        methods: vec![policy::Method::new("POST").unwrap()],
        paths: vec![policy::PathPattern::new("/v1/readings/*").unwrap()],
    };
    policy::PolicySet {
        policies: vec![policy::Policy {
            namespace: "factory".to_owned(),
            name: "telemetry".to_owned(),
            action: policy::Action::Allow,
            mode: policy::Mode::Enforce,
            from: vec![policy::CallerRule::Devices {
                namespaces: vec!["factory".to_owned()],
                names: Vec::new(),
                attributes: policy::AttributeSelector::default(),
            }],
            to: vec![policy::Door::Port {
                port: 8080,
                protocol: policy::Protocol::Http(vec![rule]),
            }],
        }],
    }
}

fn policies() -> Seeds {
    let asked = |request: &str| [&pieces([request.as_bytes()])[..], &section(1)].concat();
    vec![
        ("allowed", asked("POST /v1/readings/7")),
        ("another-path", asked("POST /v2")),
        ("ambiguous", asked("POST /v1/readings/%2e%2e/x")),
        (
            "unreadable",
            [&pieces([&b"GET /"[..]])[..], &[0x81, 0xf6]].concat(),
        ),
    ]
}

fn hello(credential: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(credential) = credential {
        out.extend([0xa2, 0]);
        world::head(&mut out, 2, credential.len());
        out.extend_from_slice(credential);
    } else {
        out.push(0xa1);
    }
    out.push(2);
    world::head(&mut out, 2, 16);
    out.extend_from_slice(&[3; 16]);
    out
}

/// Link up (0, who), message (2, link, circuit, piece), forward (4, link,
/// circuit, two bytes).
fn relay_scripts() -> Seeds {
    let say = |link: u8, message: &ToRelay| {
        let bytes = message.to_bytes().unwrap();
        [&[2, link, 0][..], &pieces([&bytes[..]])].concat()
    };
    let name = "collector.factory.svc.fairway.internal";
    let mut register = vec![1, 0x82, 0, 0x81, 0x81];
    world::head(&mut register, 3, name.len());
    register.extend_from_slice(name.as_bytes());
    let register = [&[2, 0, 0][..], &pieces([&register[..]])].concat();
    let join = [&[0, 4][..], &register, &[0, 1], &say(1, &open())].concat();
    vec![
        (
            "join",
            [&join[..], &[4, 1, 2, 0, 200, 4, 0, 1, 0, 100]].concat(),
        ),
        (
            "slow",
            [&join[..], &[5, 0, 1, 255, 255, 5, 0, 1, 255, 255]].concat(),
        ),
        (
            "gone",
            [&join[..], &[1, 0, 0, 4, 1, 2, 0, 9, 7, 39, 255]].concat(),
        ),
    ]
}
