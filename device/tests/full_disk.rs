//! A disk on which nothing can be written any more: what is there stays, and
//! the error says what to make room for.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use fairway_device::{Enrolment, StateDir, StateError};
use fairway_endpoint::{Keep, Store as _};
use fairway_identity::{Label, RootHash, Ticket, TrustDomain, UnixSeconds};

/// Names the state directory to the test that runs in a process of its own.
const DIR: &str = "FULL_DISK_STATE_DIR";

fn enrolment() -> Enrolment {
    Enrolment {
        trust_domain: TrustDomain::new("fairway.local").unwrap(),
        namespace: Label::new("factory").unwrap(),
        name: Label::new("pump-7").unwrap(),
        root: RootHash([7; 32]),
        relays: vec!["198.18.0.2:30740".parse().unwrap()],
    }
}

/// Runs `program` so that each of its writes to a file fails, as on a full
/// disk: files may not grow, and the signal that comes with it is ignored.
fn without_room(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(program);
    command
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn what_was_kept_stays_when_nothing_can_be_written() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let state = StateDir::open(&dir).unwrap();
    state.key().unwrap();
    state.set_enrolment(&enrolment()).unwrap();
    state
        .keep(&Keep::TimeFloor(UnixSeconds(1_800_000_000)))
        .unwrap();
    drop(state);
    let before = files(&dir);
    let output = without_room(&std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "nothing_can_be_written"])
        .env(DIR, &dir)
        .output()
        .unwrap();
    let text = text(&output);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert_eq!(files(&dir), before);
}

#[test]
#[ignore = "the test above runs it, in a process that cannot write"]
fn nothing_can_be_written() {
    let dir = std::env::var(DIR).unwrap();
    let state = StateDir::open(&dir).unwrap();
    state.key().unwrap();
    let mut moved = enrolment();
    moved.relays.clear();
    let error = state.set_enrolment(&moved).unwrap_err();
    let StateError::File { what, path, source } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*what, "write");
    assert_eq!(*path, format!("{dir}/enrolment.json"));
    assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
    state
        .keep(&Keep::TimeFloor(UnixSeconds(1_900_000_000)))
        .unwrap_err();
    assert_eq!(state.enrolment().unwrap(), Some(enrolment()));
}

#[test]
fn joining_without_room_for_the_key_says_so() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let Enrolment {
        trust_domain,
        namespace,
        name,
        root,
        relays,
    } = enrolment();
    let ticket = Ticket::new(relays, trust_domain, root, namespace, name, [3; 32]).unwrap();
    let output = without_room(Path::new(env!("CARGO_BIN_EXE_fairway-device")))
        .args(["join", "--state-dir"])
        .arg(&dir)
        .arg(ticket.to_string())
        .output()
        .unwrap();
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("not joined (state-directory)"), "{text}");
    assert!(
        text.contains(&format!("cannot write {}/device.key", dir.display())),
        "{text}"
    );
    assert_eq!(files(&dir).keys().collect::<Vec<_>>(), ["lock"]);
}
