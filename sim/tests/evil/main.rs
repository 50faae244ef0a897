//! The evil peer: somebody who speaks the protocol wrong on purpose.
//!
//! It has its own handshake, records and frames (`peer.rs`, `wire.rs`), written
//! after the SPEC.md files and not after the code, so that every byte can be
//! made wrong. `scene.rs` has the endpoint that it attacks. Each case is a row:
//! what is done, and how it has to end; the headings say which section of which
//! SPEC.md says so. After each, an honest peer's session with the same endpoint
//! must be as it was (`Bystander`).
//!
//! | subject | cases in |
//! |---|---|
//! | handshake messages, keys, hellos' bounds | `handshake.rs` |
//! | records, packet numbers, epochs | `records.rs` |
//! | frames, acknowledgements | `frames.rs` |
//! | streams, credit, datagrams | `streams.rs` |
//! | re-attachment | `paths.rs` |
//! | renewal of keys | `renewal.rs` |
//! | credentials, hellos, OPENs | `admission.rs` |
//! | links, circuits, names at a relay | `relay.rs` |

#![allow(clippy::unwrap_used)]

mod admission;
mod frames;
mod handshake;
mod paths;
mod peer;
mod records;
mod relay;
mod renewal;
mod scene;
mod streams;
mod wire;

#[path = "../../../channel/src/crypto.rs"]
#[allow(dead_code, unused_imports, unreachable_pub)]
mod crypto;

use std::collections::BTreeSet;

#[test]
fn there_are_enough_cases_and_each_has_a_name_of_its_own() {
    let all = [
        handshake::CASES,
        records::CASES,
        frames::CASES,
        streams::CASES,
        paths::CASES,
        renewal::CASES,
        admission::CASES,
    ];
    let names: Vec<&str> = all
        .iter()
        .copied()
        .flatten()
        .map(|case| case.name)
        .collect();
    let different: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(names.len(), different.len(), "{names:?}");
    assert!(names.len() + relay::CASES.len() >= 200, "{}", names.len());
}
