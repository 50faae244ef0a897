//! The state directory: what a device must not lose, and what nobody else may read.
//!
//! | file | what | secret |
//! |---|---|---|
//! | `device.key` | seed of the Ed25519 key, made here, never leaves | yes |
//! | `enrolment.json` | trust domain, namespace, name, root hash, relays | no |
//! | `credential.json` | the credential and its X25519 key | yes |
//! | `trust-set.cose` | the newest trust set | no |
//! | `time-floor` | a lower bound of the true time, Unix seconds | no |
//! | `lock` | held by the process that runs | no |
//!
//! The directory is 0700 and each file 0600; a file is replaced as a whole
//! (written beside, synced, renamed, directory synced), so that a device that
//! loses power has the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use fairway_endpoint::{Keep, SavedCredential, Store};
use fairway_identity::{
    Ed25519Key, Label, RelayAddress, RootHash, TrustDomain, UnixSeconds, VerifiedTrustSet,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const KEY: &str = "device.key";
const ENROLMENT: &str = "enrolment.json";
const CREDENTIAL: &str = "credential.json";
const TRUST_SET: &str = "trust-set.cose";
const TIME_FLOOR: &str = "time-floor";
const LOCK: &str = "lock";

/// No file of ours comes near it: a larger one is not ours.
const MAX_FILE: u64 = 64 * 1024;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or written to.
    #[error(
        "the state directory {dir} is not usable; choose another with --state-dir, or let its owner run this"
    )]
    Directory {
        /// The directory.
        dir: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may look into it.
    #[error("the state directory {dir} can be read by others (mode {mode:o}); run chmod 700 {dir}")]
    Open {
        /// The directory.
        dir: String,
        /// Its mode.
        mode: u32,
    },
    /// A file in it cannot be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file in it is not what was written.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// Another process runs with it.
    #[error("another fairway-device runs with {dir}; one device is one process")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// The system gave no randomness for a key.
    #[error("no randomness from the operating system for the device's key")]
    Randomness,
}

/// Who the device is, once it has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The namespace of its DeviceIdentity.
    pub namespace: Label,
    /// Its name.
    pub name: Label,
    /// The root that it trusts.
    pub root: RootHash,
    /// Where relays can be reached.
    pub relays: Vec<RelayAddress>,
}

/// An open state directory.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    /// Kept for its lock.
    _lock: File,
    /// `enrolment.json` is read, changed and written by more than one caller.
    enrolment: Mutex<()>,
}

impl StateDir {
    /// Opens the directory, making it when it is not there, and locks it for
    /// this process.
    ///
    /// # Errors
    /// It is not writable, others may read it, or another process has it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StateError> {
        let dir = dir.as_ref().to_owned();
        let unusable = |source| StateError::Directory {
            dir: dir.display().to_string(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(unusable)?;
        let mode = fs::metadata(&dir).map_err(unusable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::Open {
                dir: dir.display().to_string(),
                mode,
            });
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(LOCK))
            .map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StateError::Locked {
                dir: dir.display().to_string(),
            },
            fs::TryLockError::Error(source) => unusable(source),
        })?;
        Ok(Self {
            dir,
            _lock: lock,
            enrolment: Mutex::new(()),
        })
    }

    /// The enrolment recorded in `dir`, without a lock: for looking while
    /// another process runs.
    ///
    /// # Errors
    /// A file cannot be read or is damaged.
    pub fn peek(dir: &Path) -> Result<Option<Enrolment>, StateError> {
        read(&dir.join(ENROLMENT))?
            .map(|bytes| parse_enrolment(&bytes, &dir.join(ENROLMENT)))
            .transpose()
    }

    /// The device's signing key, made at the first call.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged.
    pub fn key(&self) -> Result<Ed25519Key, StateError> {
        let path = self.path(KEY);
        if let Some(bytes) = read(&path)? {
            let seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
                damaged(
                    &path,
                    "it should have 32 bytes; the device must be enrolled anew",
                )
            })?;
            return Ok(Ed25519Key::from_seed(seed));
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|_| StateError::Randomness)?;
        self.write(KEY, &*seed)?;
        Ok(Ed25519Key::from_seed(*seed))
    }

    /// Who the device is, or `None` before it has joined.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn enrolment(&self) -> Result<Option<Enrolment>, StateError> {
        Self::peek(&self.dir)
    }

    /// Records who the device is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_enrolment(&self, enrolment: &Enrolment) -> Result<(), StateError> {
        let file = EnrolmentFile::from(enrolment);
        let text = serde_json::to_vec_pretty(&file)
            .map_err(|error| damaged(&self.path(ENROLMENT), error))?;
        self.write(ENROLMENT, &text)
    }

    /// The credential of an earlier run, if there is one. A damaged one is as
    /// good as none: the device's key obtains another.
    pub(crate) fn credential(&self) -> Option<SavedCredential> {
        let found = read(&self.path(CREDENTIAL)).and_then(|bytes| {
            bytes
                .map(|bytes| {
                    parse_credential(&bytes)
                        .ok_or_else(|| damaged(&self.path(CREDENTIAL), "not a credential"))
                })
                .transpose()
        });
        found.unwrap_or_else(|error| {
            tracing::warn!(event = "state", %error, "the saved credential is not used");
            None
        })
    }

    /// The newest trust set of an earlier run, verified again.
    pub(crate) fn trust_set(&self, pin: &RootHash) -> Option<VerifiedTrustSet> {
        let bytes = read(&self.path(TRUST_SET)).ok().flatten()?;
        VerifiedTrustSet::verify(&bytes, pin, 0)
            .inspect_err(
                |error| tracing::warn!(event = "state", %error, "the saved trust set is not used"),
            )
            .ok()
    }

    /// The last time known to have passed; 0 when none is recorded.
    pub(crate) fn time_floor(&self) -> UnixSeconds {
        let text = read(&self.path(TIME_FLOOR)).ok().flatten();
        let seconds = text.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        UnixSeconds(seconds.unwrap_or(0))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path(name);
        replace(&self.dir, name, bytes).map_err(|source| StateError::File {
            what: "write",
            path: path.display().to_string(),
            source,
        })
    }

    fn keep_relays(&self, relays: &[RelayAddress]) -> Result<(), StateError> {
        let _guard = self
            .enrolment
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(mut enrolment) = self.enrolment()? else {
            return Ok(());
        };
        if relays.is_empty() || enrolment.relays == relays {
            return Ok(());
        }
        enrolment.relays = relays.to_vec();
        self.set_enrolment(&enrolment)
    }
}

impl Store for StateDir {
    fn keep(&self, what: &Keep) -> io::Result<()> {
        let result = match what {
            Keep::TrustSet(trust) => self.write(TRUST_SET, trust.bytes()),
            Keep::Credential(credential) => self.write(CREDENTIAL, &credential_json(credential)),
            Keep::TimeFloor(floor) => self.write(TIME_FLOOR, floor.to_string().as_bytes()),
            Keep::Relays(relays) => self.keep_relays(relays),
        };
        result.map_err(io::Error::other)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EnrolmentFile {
    trust_domain: String,
    namespace: String,
    name: String,
    root_hash: String,
    relays: Vec<String>,
}

impl From<&Enrolment> for EnrolmentFile {
    fn from(enrolment: &Enrolment) -> Self {
        Self {
            trust_domain: enrolment.trust_domain.to_string(),
            namespace: enrolment.namespace.to_string(),
            name: enrolment.name.to_string(),
            root_hash: enrolment.root.to_string(),
            relays: enrolment.relays.iter().map(ToString::to_string).collect(),
        }
    }
}

fn parse_enrolment(bytes: &[u8], path: &Path) -> Result<Enrolment, StateError> {
    let file: EnrolmentFile =
        serde_json::from_slice(bytes).map_err(|error| damaged(path, error))?;
    let relays: Result<Vec<RelayAddress>, _> =
        file.relays.iter().map(|relay| relay.parse()).collect();
    Ok(Enrolment {
        trust_domain: TrustDomain::new(&file.trust_domain).map_err(|error| damaged(path, error))?,
        namespace: Label::new(&file.namespace).map_err(|error| damaged(path, error))?,
        name: Label::new(&file.name).map_err(|error| damaged(path, error))?,
        root: file
            .root_hash
            .parse()
            .map_err(|error| damaged(path, error))?,
        relays: relays.map_err(|error| damaged(path, error))?,
    })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CredentialFile {
    secret: Zeroizing<String>,
    lean: String,
    full: String,
    renew_at: u64,
    expires: u64,
}

fn credential_json(credential: &SavedCredential) -> Zeroizing<Vec<u8>> {
    let file = CredentialFile {
        secret: Zeroizing::new(BASE64.encode(*credential.secret)),
        lean: BASE64.encode(&credential.lean),
        full: BASE64.encode(&credential.full),
        renew_at: credential.renew_at.0,
        expires: credential.expires.0,
    };
    // Room from the start: growing would leave copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(8 * 1024));
    serde_json::to_writer(&mut *text, &file)
        .expect("strings and numbers always serialise into memory");
    text
}

fn parse_credential(bytes: &[u8]) -> Option<SavedCredential> {
    let file: CredentialFile = serde_json::from_slice(bytes).ok()?;
    let secret = Zeroizing::new(BASE64.decode(&*file.secret).ok()?);
    Some(SavedCredential {
        secret: Zeroizing::new(secret.as_slice().try_into().ok()?),
        lean: BASE64.decode(&file.lean).ok()?,
        full: BASE64.decode(&file.full).ok()?,
        renew_at: UnixSeconds(file.renew_at),
        expires: UnixSeconds(file.expires),
    })
}

fn damaged(path: &Path, detail: impl ToString) -> StateError {
    StateError::Damaged {
        path: path.display().to_string(),
        detail: detail.to_string(),
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let failed = |source| StateError::File {
        what: "read",
        path: path.display().to_string(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => return Err(damaged(path, "it is too large")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    fs::read(path)
        .map(|bytes| Some(Zeroizing::new(bytes)))
        .map_err(failed)
}

/// Replaces `dir/name` so that a crash leaves the old content or the new one.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // A full disk must not leave half a secret lying about.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    fs::rename(&beside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment() -> Enrolment {
        Enrolment {
            trust_domain: TrustDomain::new("fairway.local").unwrap(),
            namespace: Label::new("factory").unwrap(),
            name: Label::new("pump-7").unwrap(),
            root: RootHash([7; 32]),
            relays: vec!["198.18.0.2:30740".parse().unwrap()],
        }
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        let state = StateDir::open(&dir).unwrap();
        let seed = *state.key().unwrap().seed();
        assert_eq!(*state.key().unwrap().seed(), seed);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(KEY))), (0o700, 0o600));
    }

    #[test]
    fn enrolment_credential_and_floor_come_back() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("state")).unwrap();
        assert_eq!(state.enrolment().unwrap(), None);
        state.set_enrolment(&enrolment()).unwrap();
        state
            .keep(&Keep::Relays(vec!["198.18.0.3:30740".parse().unwrap()]))
            .unwrap();
        let expected = Enrolment {
            relays: vec!["198.18.0.3:30740".parse().unwrap()],
            ..enrolment()
        };
        assert_eq!(state.enrolment().unwrap(), Some(expected));

        let saved = SavedCredential {
            secret: Zeroizing::new([9; 32]),
            lean: vec![1],
            full: vec![2, 3],
            renew_at: UnixSeconds(10),
            expires: UnixSeconds(20),
        };
        state.keep(&Keep::Credential(saved)).unwrap();
        state
            .keep(&Keep::TimeFloor(UnixSeconds(1_800_000_000)))
            .unwrap();
        let found = state.credential().unwrap();
        assert_eq!(
            (*found.secret, found.full, found.expires),
            ([9; 32], vec![2, 3], UnixSeconds(20))
        );
        assert_eq!(state.time_floor(), UnixSeconds(1_800_000_000));
    }

    #[test]
    fn damage_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        let state = StateDir::open(&dir).unwrap();
        fs::write(dir.join(KEY), b"short").unwrap();
        assert!(matches!(state.key(), Err(StateError::Damaged { .. })));
        fs::write(dir.join(ENROLMENT), b"{").unwrap();
        assert!(matches!(state.enrolment(), Err(StateError::Damaged { .. })));
        fs::write(dir.join(CREDENTIAL), vec![b' '; 100_000]).unwrap();
        assert!(state.credential().is_none());
    }

    #[test]
    fn one_process_a_directory_and_nobody_else_looks_in() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        let state = StateDir::open(&dir).unwrap();
        assert!(matches!(
            StateDir::open(&dir),
            Err(StateError::Locked { .. })
        ));
        drop(state);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            StateDir::open(&dir),
            Err(StateError::Open { mode: 0o755, .. })
        ));
        assert!(matches!(
            StateDir::open("/proc/nothing"),
            Err(StateError::Directory { .. })
        ));
    }
}
