//! Fuzz entries: one for every parser of outside input, and structured ones
//! for the state machines.
//!
//! Each takes any bytes and must neither panic nor grow without bound; what it
//! asserts beyond that is in its own docs. `corpus/NAME/` holds a small corpus
//! for each, which `tests/corpus.rs` replays as an ordinary test; `libfuzzer/`
//! is the program that `make fuzz` builds and runs, from these corpora on.

#![allow(
    clippy::unwrap_used,
    reason = "what is unwrapped was made here; a panic is what a fuzzer reports"
)]

mod channel;
mod control;
mod identity;
mod policy;
mod portal;
mod relay;
mod script;
mod session;
pub mod world;

pub use self::script::Script;

/// A fuzz entry: survives any bytes.
pub type Entry = fn(&[u8]);

/// All entries, by name.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("channel_pair", channel::pair),
    ("control_messages", control::messages),
    ("control_stream", control::stream),
    ("control_update", control::update),
    ("credential", identity::credential),
    ("device_config", portal::device_config),
    ("http_request", portal::http_request),
    ("inlets", portal::inlets),
    ("link_frames", control::link_frames),
    ("names", identity::names),
    ("policy", policy::policy),
    ("relay_core", relay::core),
    ("session_datagram", session::datagram),
    ("session_hello_to_answerer", session::hello_to_answerer),
    ("session_hello_to_dialler", session::hello_to_dialler),
    ("session_open", session::open),
    ("signed_objects", identity::signed_objects),
    ("signed_time", identity::signed_time),
    ("ticket", identity::ticket),
    ("trust_set", identity::trust_set),
];

/// The entries that the channel keeps for itself.
#[cfg(feature = "channel-internals")]
pub use fairway_channel::testing::ENTRIES as CHANNEL_ENTRIES;
