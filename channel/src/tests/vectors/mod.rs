//! The test vectors of SPEC.md: made here, kept in `testdata/`, and compared
//! on every run. `FAIRWAY_UPDATE=1 cargo test -p fairway-channel vectors`
//! writes them anew. `testdata/check.py` reads them by the words of SPEC.md.

mod frames;
mod handshake;

use std::{io::Write as _, path::Path, process::Command};

use serde_json::Value;

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

/// The vectors as somebody reads them who has SPEC.md and not this code.
#[test]
fn a_reading_of_the_specification_alone_agrees() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/check.py");
    match Command::new("python3").arg(script).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        // Not by a macro: those are shown of tests that fail, only.
        Err(error) => writeln!(
            std::io::stderr(),
            "SKIPPED: channel/testdata/check.py was not run, for want of python3: {error}"
        )
        .unwrap(),
    }
}
