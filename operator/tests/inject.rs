//! The injector against goldens: `testdata/inject/NAME.yaml` becomes
//! `NAME.golden.yaml`. `FAIRWAY_UPDATE=1 cargo test -p fairway-operator` renews
//! them; read the difference before you commit it.

// Helpers of tests, which clippy does not know as such.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use fairway_operator::inject::{InjectConfig, Outcome, Refusal, SkipReason, inject};
use serde_json::{Value, json};

fn config() -> InjectConfig {
    InjectConfig {
        image: "localhost/fairway-sidecar:dev".to_owned(),
        image_pull_policy: None,
        trust_domain: "fairway.local".to_owned(),
        root_hash: "ab".repeat(32),
        authority: "fairway-authority.fairway-system.svc:7441".to_owned(),
        cpu_request: "10m".to_owned(),
        memory_request: "32Mi".to_owned(),
        memory_limit: "128Mi".to_owned(),
        otlp_endpoint: None,
        move_probes: true,
    }
}

fn injected(pod: &Value) -> Value {
    let Outcome::Inject(patch) = inject(pod, &config()) else {
        panic!("not injected: {:?}", inject(pod, &config()));
    };
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/inject")
}

#[test]
fn goldens() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".golden.yaml") {
            continue;
        }
        seen += 1;
        let pod: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let result = injected(&pod);
        let text = serde_yaml::to_string(&result).unwrap();
        let golden = path.with_extension("golden.yaml");
        if std::env::var_os("FAIRWAY_UPDATE").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(text == expected, "{name} differs from its golden:\n{text}");

        assert_eq!(
            inject(&result, &config()),
            Outcome::Skip(SkipReason::AlreadyInjected),
            "{name}: a second call must change nothing"
        );
    }
    assert!(seen >= 3, "only {seen} files were found");
}

fn pod(replace: &str, by: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "app-", "labels": {"app": "a"}, "annotations": {"x": "y"}},
        "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]},
    });
    let mut at = &mut pod;
    for key in replace.split('.') {
        at = match key.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[key],
        };
    }
    *at = by.clone();
    pod
}

#[test]
fn fields_that_this_build_does_not_know_survive() {
    let pod = pod("spec.containers.0.inventedLater", &json!({"a": [1]}));
    let result = injected(&pod);
    assert_eq!(result["spec"]["containers"], pod["spec"]["containers"]);
}

#[test]
fn one_that_was_moved_from_the_first_place_comes_back() {
    let mut pod = injected(&pod("spec.dnsPolicy", &json!("Default")));
    let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init.insert(0, json!({"name": "other", "image": "other"}));
    let again = injected(&pod);
    let names: Vec<&str> = again["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["fairway-sidecar", "other"]);
    assert_eq!(again["spec"]["volumes"].as_array().unwrap().len(), 1);
}

/// The pod's probes point at the sidecar already, so the new one must know them.
#[test]
fn one_that_is_made_anew_keeps_the_probes() {
    let probe = json!({"httpGet": {"path": "/$(POD_NAME)", "port": 8080}});
    let first = injected(&pod("spec.containers.0.livenessProbe", &probe));
    let env = first["spec"]["initContainers"][0]["env"].to_string();
    assert!(
        env.contains("/$$(POD_NAME)"),
        "the kubelet must not expand it: {env}"
    );
    let mut pod = first.clone();
    let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init.insert(0, json!({"name": "other", "image": "other"}));
    let again = injected(&pod);
    assert_eq!(
        again["spec"]["initContainers"][0],
        first["spec"]["initContainers"][0]
    );
    assert_eq!(again["spec"]["containers"], first["spec"]["containers"]);
}

#[test]
fn probes_stay_where_that_is_wished() {
    let mut pod = pod(
        "spec.containers.0.livenessProbe",
        &json!({"tcpSocket": {"port": 8080}}),
    );
    pod["metadata"]["annotations"]["fairway.dev/move-probes"] = json!("false");
    assert_eq!(
        injected(&pod)["spec"]["containers"],
        pod["spec"]["containers"]
    );
}

#[test]
fn null_lists_are_filled() {
    let mut pod = pod("spec.volumes", &Value::Null);
    pod["spec"]["initContainers"] = Value::Null;
    pod["metadata"]["annotations"] = Value::Null;
    assert_eq!(
        injected(&pod)["spec"]["initContainers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn some_pods_are_left_alone() {
    for (field, value, reason) in [
        (
            "metadata.labels",
            json!({"fairway.dev/inject": "disabled"}),
            SkipReason::OptedOut,
        ),
        ("spec.hostNetwork", json!(true), SkipReason::HostNetwork),
        ("spec.os", json!({"name": "windows"}), SkipReason::Windows),
        (
            "metadata.annotations",
            json!({"kubernetes.io/config.mirror": "1"}),
            SkipReason::StaticPod,
        ),
    ] {
        assert_eq!(
            inject(&pod(field, &value), &config()),
            Outcome::Skip(reason)
        );
    }
}

#[test]
fn some_pods_are_refused_with_what_to_write_instead() {
    let inlets = |text: &str| ("metadata.annotations", json!({"fairway.dev/inlets": text}));
    let ports = |text: &str| {
        (
            "metadata.annotations",
            json!({"fairway.dev/allow-exposed-ports": text}),
        )
    };
    let proxy = |text: &str| {
        (
            "metadata.annotations",
            json!({"fairway.dev/http-proxy-env": text}),
        )
    };
    let fine = "1883=m.factory.svc.fairway.internal:1883";
    let many: Vec<String> = (0..33)
        .map(|n| format!("{}=m.f.svc.fairway.internal:1", 2000 + n))
        .collect();
    for ((field, value), word, text) in [
        (inlets("1883"), "bad-annotation", "write PORT=HOST:PORT"),
        (
            inlets("0=m.factory.svc.fairway.internal:1"),
            "bad-annotation",
            "not a port",
        ),
        (
            inlets("1883=example.org:1883"),
            "bad-annotation",
            "SERVICE.NAMESPACE.svc.fairway.internal",
        ),
        (
            inlets("1883=authority.fairway.internal:1"),
            "bad-annotation",
            "not for applications",
        ),
        (
            inlets("80=m.factory.svc.fairway.internal:1"),
            "bad-annotation",
            "from 1024 up",
        ),
        (
            inlets("7490=m.factory.svc.fairway.internal:1"),
            "bad-annotation",
            "sidecar's own",
        ),
        (
            inlets(&format!("{fine}, {fine}")),
            "bad-annotation",
            "given twice",
        ),
        (inlets(&many.join(",")), "bad-annotation", "at most 32"),
        (
            inlets("8080=m.factory.svc.fairway.internal:1"),
            "port-taken",
            "give the app another port",
        ),
        (ports("80,x"), "bad-annotation", "from 1 to 65535"),
        (proxy("yes"), "bad-annotation", "neither"),
        (
            ("spec.containers.0.ports", json!([{"containerPort": 7480}])),
            "port-taken",
            "container app",
        ),
        (
            ("spec", json!({"containers": 1})),
            "not-a-pod",
            "cannot be read",
        ),
    ] {
        let outcome = inject(&pod(field, &value), &config());
        let Outcome::Refuse(refusal) = outcome else {
            panic!("{value} was not refused")
        };
        assert_eq!(Refusal::word(&refusal), word, "{refusal}");
        assert!(
            refusal.to_string().contains(text),
            "{text:?} is not in {refusal}"
        );
    }
}
