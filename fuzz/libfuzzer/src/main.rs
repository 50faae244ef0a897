//! All entries in one program: FAIRWAY_FUZZ names the one to run. (One program
//! a target, as cargo-fuzz makes them, would take twenty times as long to link.)
#![no_main]

use std::sync::LazyLock;

use fairway_fuzz::{CHANNEL_ENTRIES, ENTRIES, Entry};

static ENTRY: LazyLock<Entry> = LazyLock::new(|| {
    let wanted = std::env::var("FAIRWAY_FUZZ").unwrap_or_default();
    let mut all = ENTRIES.iter().chain(&CHANNEL_ENTRIES);
    match all.find(|(name, _)| *name == wanted) {
        Some((_, entry)) => *entry,
        None => {
            let names: Vec<_> = ENTRIES
                .iter()
                .chain(&CHANNEL_ENTRIES)
                .map(|(name, _)| *name)
                .collect();
            eprintln!("set FAIRWAY_FUZZ to one of: {}", names.join(" "));
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| ENTRY(data));
