//! Each test is a few changes and what they touch.

use super::*;
use crate::testing::{device, index, pod, policy, service};

const NOW: UnixSeconds = UnixSeconds(1000);

fn names(labels: &[Label]) -> Vec<&str> {
    labels.iter().map(Label::as_str).collect()
}

fn name(namespace: &str, name: &str) -> Name {
    (namespace.to_owned(), name.to_owned())
}

#[test]
fn it_is_ready_when_everything_was_listed() {
    let mut index = Index::new(crate::testing::install(), Vec::new());
    assert_eq!(index.missing().len(), Source::ALL.len());
    index.reset_pods(Vec::new(), NOW);
    index.reset_services(Vec::new(), NOW);
    index.reset_accounts(BTreeSet::new());
    index.reset_devices(Vec::new());
    index.reset_policies(Vec::new());
    index.reset_relays(BTreeMap::new());
    index.set_record(Record::default(), NOW);
    assert!(!index.is_ready(), "without a trust set");
    index.set_trust(crate::testing::ring().trust().clone());
    assert!(index.is_ready());
}

#[test]
fn a_pod_backs_the_services_that_select_it_in_its_namespace() {
    let mut index = index();
    for (namespace, name) in [
        ("factory", "collector"),
        ("factory", "alias"),
        ("other", "collector"),
    ] {
        index.apply_service(
            (namespace.into(), name.into()),
            Some(service(namespace, name, "app=a")),
            NOW,
        );
    }
    index.apply_service(
        name("factory", "web"),
        Some(service("factory", "web", "app=b")),
        NOW,
    );
    let backing = index.backing("factory", &pod("factory", "p", "app=a").labels);
    assert_eq!(names(&backing.services), ["alias", "collector"]);
    assert!(backing.left_out.is_empty() && !backing.headless);
}

#[test]
fn a_credential_lists_sixteen_services_at_most() {
    let mut index = index();
    for number in 0..18 {
        let service_name = format!("s{number:02}");
        let facts = service("factory", &service_name, "app=a");
        index.apply_service(("factory".into(), service_name), Some(facts), NOW);
    }
    let backing = index.backing("factory", &pod("factory", "p", "app=a").labels);
    assert_eq!(backing.services.len(), 16);
    assert_eq!(backing.left_out, ["s16", "s17"]);
}

#[test]
fn gaining_a_service_renews_and_losing_one_is_an_errand() {
    let mut index = index();
    let pod = pod("factory", "p", "app=a");
    index.apply_pod(pod.clone(), NOW);
    index.take_errands();
    assert_eq!(index.pod_renew_before(&pod.uid), None);

    let touched = index.apply_service(
        name("factory", "web"),
        Some(service("factory", "web", "app=a")),
        UnixSeconds(2000),
    );
    assert_eq!(
        touched,
        Touched::Namespaces(BTreeSet::from(["factory".into()]))
    );
    assert_eq!(index.pod_renew_before(&pod.uid), Some(UnixSeconds(2000)));
    assert!(index.take_errands().is_empty());

    index.apply_service(name("factory", "web"), None, UnixSeconds(3000));
    assert_eq!(index.pod_renew_before(&pod.uid), Some(UnixSeconds(3000)));
    assert_eq!(index.take_errands(), [Errand::ServicesLost(pod)]);
}

#[test]
fn a_service_that_comes_after_the_credential_but_before_the_pod_renews_too() {
    let mut index = index();
    let pod = pod("factory", "p", "app=a");
    index.note_issued(&pod.uid, Vec::new(), NOW, NOW.plus(3600));
    index.apply_service(
        name("factory", "web"),
        Some(service("factory", "web", "app=a")),
        NOW,
    );
    index.apply_pod(pod.clone(), NOW);
    assert_eq!(index.pod_renew_before(&pod.uid), Some(NOW.plus(1)));
    index.note_issued(
        &pod.uid,
        vec![Label::new("web").unwrap()],
        NOW.plus(1),
        NOW.plus(3600),
    );
    assert_eq!(index.pod_renew_before(&pod.uid), None);
}

#[test]
fn the_first_listing_of_services_is_no_change() {
    let mut index = Index::new(crate::testing::install(), Vec::new());
    let pod = pod("factory", "p", "app=a");
    index.reset_pods(vec![pod.clone()], NOW);
    index.reset_services(vec![service("factory", "web", "app=a")], NOW);
    assert_eq!(index.pod_renew_before(&pod.uid), None);
}

#[test]
fn what_vanished_during_an_outage_of_the_watch_is_an_errand() {
    let mut index = index();
    let (gone, stays) = (pod("factory", "gone", ""), pod("factory", "stays", ""));
    let lost = device("factory", "lost");
    index.reset_accounts(BTreeSet::from([name("factory", "default")]));
    index.apply_pod(gone.clone(), NOW);
    index.apply_pod(stays.clone(), NOW);
    index.apply_device(lost.clone());
    index.take_errands();
    index.reset_pods(vec![stays], NOW);
    index.reset_devices(Vec::new());
    let mut errands = index.take_errands();
    errands.sort_by_key(|errand| errand.uid().to_owned());
    let mut want = [Errand::PodGone(gone), Errand::DeviceGone(lost)];
    want.sort_by_key(|errand| errand.uid().to_owned());
    assert_eq!(errands, want);
}

#[test]
fn a_device_made_anew_under_the_same_name_is_another_one() {
    let mut index = index();
    let old = device("factory", "pump-7");
    let new = DeviceFacts {
        uid: "another".to_owned(),
        ..old.clone()
    };
    index.apply_device(old.clone());
    index.take_errands();
    index.apply_device(new.clone());
    assert_eq!(index.take_errands().len(), 2);
    index.apply_device(old.clone());
    index.take_errands();
    index.reset_devices(vec![new]);
    assert!(index.take_errands().contains(&Errand::DeviceGone(old)));
}

#[test]
fn pods_of_a_lost_account_are_errands() {
    let mut index = index();
    let pod = pod("factory", "p", "");
    index.reset_accounts(BTreeSet::from([name("factory", "default")]));
    index.apply_pod(pod.clone(), NOW);
    assert!(index.take_errands().is_empty());
    index.delete_account(&name("factory", "default"));
    assert_eq!(index.take_errands(), [Errand::AccountGone(pod)]);
}

#[test]
fn a_policy_touches_its_own_namespace_and_its_callers() {
    let mut index = index();
    let facts = policy("factory", "p", "app=a", &["lab"]);
    let both = Touched::Namespaces(BTreeSet::from(["factory".into(), "lab".into()]));
    assert_eq!(
        index.apply_policy(name("factory", "p"), Some(facts.clone())),
        both
    );
    assert_eq!(
        index.apply_policy(name("factory", "p"), Some(facts)),
        Touched::Nobody
    );
    assert_eq!(index.apply_policy(name("factory", "p"), None), both);
    let any = policy("factory", "p", "app=a", &[]);
    assert_eq!(
        index.apply_policy(name("factory", "p"), Some(any)),
        Touched::All
    );
}

#[test]
fn an_object_that_did_not_change_touches_nobody() {
    let mut index = index();
    let (pod, device) = (pod("factory", "p", ""), device("factory", "d"));
    assert_ne!(index.apply_pod(pod.clone(), NOW), Touched::Nobody);
    assert_eq!(index.apply_pod(pod, NOW), Touched::Nobody);
    assert_ne!(index.apply_device(device.clone()), Touched::Nobody);
    assert_eq!(index.apply_device(device), Touched::Nobody);
    let relays = Some(vec!["198.18.0.1:7440".parse().unwrap()]);
    assert_eq!(
        index.apply_relays("slice".into(), relays.clone()),
        Touched::All
    );
    assert_eq!(index.apply_relays("slice".into(), relays), Touched::Nobody);
}
