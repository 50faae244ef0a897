//! Which entries the objects of the cluster ask for: pure functions of facts,
//! record and time, so that every replica comes to the same answer and a
//! restart forgets nothing.

use fairway_crds::DeviceState;
use fairway_identity::{Uid, UnixSeconds};

use super::record::{Cause, Entry, Kind, Record};
use crate::distribute::facts::{DeviceFacts, PodFacts};
use crate::issue::WORKLOAD_SECONDS;

/// How long an older credential lives on after what it says has changed, so
/// that the endpoint can have a new one first (design: 60 s).
pub const GRACE_SECONDS: u64 = 60;

/// The clocks of two replicas differ; what one of them issued just before the
/// other one revoked must be dead too.
const SKEW_SECONDS: u64 = 2;

/// What a device asks for as it is now; `None` if the record says it already,
/// or there is nothing to revoke.
pub fn of_device(device: &DeviceFacts, record: &Record, now: UnixSeconds) -> Option<Entry> {
    let credential = device.credential?;
    let uid = Uid::new(&device.uid).ok()?;
    if credential.expires <= now {
        return None;
    }
    let entry = |cause, effective: UnixSeconds| {
        let issued_before = now.plus(SKEW_SECONDS);
        of(
            device,
            &uid,
            cause,
            issued_before,
            effective,
            credential.expires,
        )
    };
    match device.state {
        // An entry that is only about to become effective is not enough.
        DeviceState::Suspended | DeviceState::Revoked
            if record.revokes(&uid, credential.issued_at, now) =>
        {
            None
        }
        DeviceState::Suspended => Some(entry(Cause::Suspended, now)),
        DeviceState::Revoked => Some(entry(Cause::Revoked, now)),
        DeviceState::Active
            if credential.generation < device.generation
                && !record.covers(&uid, credential.issued_at) =>
        {
            Some(entry(Cause::Changed, now.plus(GRACE_SECONDS)))
        }
        DeviceState::Active => None,
    }
}

/// What a device asks for that is gone. One whose credential is not known may
/// still have had one: the record of issued credentials said so.
pub fn of_gone_device(device: &DeviceFacts, record: &Record, now: UnixSeconds) -> Option<Entry> {
    let uid = Uid::new(&device.uid).ok()?;
    let credential = device.credential?;
    if credential.expires <= now || is_deleted(record, &uid) {
        return None;
    }
    Some(of(
        device,
        &uid,
        Cause::Deleted,
        now.plus(SKEW_SECONDS),
        now,
        credential.expires,
    ))
}

/// What a pod asks for that is gone.
pub fn of_gone_pod(pod: &PodFacts, record: &Record, now: UnixSeconds) -> Option<Entry> {
    let uid = Uid::new(&pod.uid).ok()?;
    let cause = match pod.sidecar_ended {
        true => Cause::Ended,
        false => Cause::Deleted,
    };
    (!is_deleted(record, &uid)).then(|| of_pod(pod, uid, cause, now, now))
}

/// What a pod asks for whose ServiceAccount is gone. A new account under the
/// same name may come; credentials by it are younger than this.
pub fn of_lost_account(pod: &PodFacts, record: &Record, now: UnixSeconds) -> Option<Entry> {
    let uid = Uid::new(&pod.uid).ok()?;
    // Several replicas see the same deletion at about the same time.
    let recent = now.minus(10 * SKEW_SECONDS);
    let known = record.iter().any(|entry| {
        entry.uid == uid && entry.cause == Cause::AccountDeleted && entry.issued_before > recent
    });
    (!known).then(|| of_pod(pod, uid, Cause::AccountDeleted, now, now))
}

/// What a pod asks for that backs fewer Services than before.
pub fn of_lost_services(pod: &PodFacts, now: UnixSeconds) -> Option<Entry> {
    let uid = Uid::new(&pod.uid).ok()?;
    Some(of_pod(
        pod,
        uid,
        Cause::Changed,
        now,
        now.plus(GRACE_SECONDS),
    ))
}

/// What a device asks for that enrols with another key than before. The new
/// credential is issued at `issued_at`.
pub fn of_reenrolment(
    device: &DeviceFacts,
    issued_at: UnixSeconds,
    now: UnixSeconds,
) -> Option<Entry> {
    let credential = device
        .credential
        .filter(|credential| now < credential.expires)?;
    let uid = Uid::new(&device.uid).ok()?;
    Some(of(
        device,
        &uid,
        Cause::Reenrolled,
        issued_at,
        now,
        credential.expires,
    ))
}

fn is_deleted(record: &Record, uid: &Uid) -> bool {
    record
        .iter()
        .any(|entry| entry.uid == *uid && matches!(entry.cause, Cause::Deleted | Cause::Ended))
}

fn of(
    device: &DeviceFacts,
    uid: &Uid,
    cause: Cause,
    issued_before: UnixSeconds,
    effective: UnixSeconds,
    keep_until: UnixSeconds,
) -> Entry {
    Entry {
        uid: uid.clone(),
        kind: Kind::Device,
        namespace: device.namespace.clone(),
        name: device.name.clone(),
        cause,
        issued_before,
        effective,
        keep_until,
    }
}

fn of_pod(
    pod: &PodFacts,
    uid: Uid,
    cause: Cause,
    now: UnixSeconds,
    effective: UnixSeconds,
) -> Entry {
    let issued_before = now.plus(SKEW_SECONDS);
    Entry {
        uid,
        kind: Kind::Workload,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        cause,
        issued_before,
        effective,
        keep_until: issued_before.plus(WORKLOAD_SECONDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, credential};

    const NOW: UnixSeconds = UnixSeconds(10_000);

    fn device(state: DeviceState, generation: i64) -> DeviceFacts {
        DeviceFacts {
            state,
            generation,
            credential: Some(credential(9_000, 50_000)),
            ..testing::device("factory", "pump-7")
        }
    }

    fn with(entry: Entry) -> Record {
        let mut record = Record::default();
        record.insert(entry);
        record
    }

    #[test]
    fn a_revoked_device_is_dead_at_once_and_until_its_credential_has_expired() {
        for (state, cause) in [
            (DeviceState::Suspended, Cause::Suspended),
            (DeviceState::Revoked, Cause::Revoked),
        ] {
            let entry = of_device(&device(state, 2), &Record::default(), NOW).unwrap();
            assert_eq!(
                (entry.cause, entry.effective, entry.keep_until),
                (cause, NOW, UnixSeconds(50_000))
            );
            assert!(
                entry.issued_before > NOW,
                "covers what another replica issues with a late clock"
            );
            assert_eq!(
                of_device(&device(state, 2), &with(entry), NOW.plus(5)),
                None,
                "once is enough"
            );
        }
    }

    #[test]
    fn a_changed_device_is_given_a_minute() {
        let changed = device(DeviceState::Active, 2);
        let entry = of_device(&changed, &Record::default(), NOW).unwrap();
        assert_eq!(
            (entry.cause, entry.effective),
            (Cause::Changed, NOW.plus(60))
        );
        assert_eq!(
            of_device(&changed, &with(entry.clone()), NOW.plus(30)),
            None
        );
        let mut renewed = changed;
        renewed.credential = Some(testing::credential(entry.issued_before.0, 90_000));
        renewed.credential.as_mut().unwrap().generation = 2;
        assert_eq!(of_device(&renewed, &with(entry), NOW.plus(30)), None);
    }

    #[test]
    fn suspending_does_not_wait_for_the_grace_of_a_change() {
        let changed = of_device(&device(DeviceState::Active, 2), &Record::default(), NOW).unwrap();
        let entry = of_device(
            &device(DeviceState::Suspended, 3),
            &with(changed),
            NOW.plus(5),
        )
        .unwrap();
        assert_eq!(
            (entry.cause, entry.effective),
            (Cause::Suspended, NOW.plus(5))
        );
    }

    #[test]
    fn nothing_to_revoke() {
        let record = Record::default();
        assert_eq!(
            of_device(&device(DeviceState::Active, 1), &record, NOW),
            None
        );
        let expired = device(DeviceState::Revoked, 2);
        assert_eq!(of_device(&expired, &record, UnixSeconds(50_000)), None);
        let never = DeviceFacts {
            credential: None,
            ..expired
        };
        assert_eq!(of_device(&never, &record, NOW), None);
        assert_eq!(of_gone_device(&never, &record, NOW), None);
    }

    #[test]
    fn a_device_suspended_again_after_a_new_credential_is_revoked_again() {
        let first = of_device(&device(DeviceState::Suspended, 2), &Record::default(), NOW).unwrap();
        let mut again = device(DeviceState::Suspended, 4);
        again.credential = Some(testing::credential(NOW.0 + 100, 90_000));
        let second = of_device(&again, &with(first), NOW.plus(200)).unwrap();
        assert_eq!(second.keep_until, UnixSeconds(90_000));
    }

    #[test]
    fn what_is_gone_is_revoked_once() {
        let gone = device(DeviceState::Active, 1);
        let entry = of_gone_device(&gone, &Record::default(), NOW).unwrap();
        assert_eq!(entry.cause, Cause::Deleted);
        assert_eq!(of_gone_device(&gone, &with(entry), NOW.plus(1)), None);

        let pod = testing::pod("factory", "p", "");
        let entry = of_gone_pod(&pod, &Record::default(), NOW).unwrap();
        assert!(entry.keep_until >= NOW.plus(WORKLOAD_SECONDS));
        assert_eq!(entry.cause, Cause::Deleted, "somebody may hold its key");
        assert_eq!(of_gone_pod(&pod, &with(entry), NOW.plus(1)), None);

        let mut ended = pod;
        ended.sidecar_ended = true;
        let entry = of_gone_pod(&ended, &Record::default(), NOW).unwrap();
        assert_eq!(entry.cause, Cause::Ended);
        assert_eq!(of_gone_pod(&ended, &with(entry), NOW.plus(1)), None);
    }

    #[test]
    fn an_account_lost_twice_is_revoked_twice_but_not_by_each_replica() {
        let pod = testing::pod("factory", "p", "");
        let record = with(of_lost_account(&pod, &Record::default(), NOW).unwrap());
        assert_eq!(of_lost_account(&pod, &record, NOW.plus(3)), None);
        assert!(of_lost_account(&pod, &record, NOW.plus(600)).is_some());
    }

    #[test]
    fn another_key_ends_what_the_old_one_had() {
        let device = device(DeviceState::Active, 1);
        let entry = of_reenrolment(&device, NOW.plus(1), NOW).unwrap();
        assert_eq!((entry.issued_before, entry.effective), (NOW.plus(1), NOW));
        assert_eq!(of_reenrolment(&device, NOW, UnixSeconds(60_000)), None);
    }
}
