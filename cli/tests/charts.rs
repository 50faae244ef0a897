//! The Helm charts: they lint, they render to the goldens, their values are
//! checked, and what they render is as narrow as we say.
//!
//! Needs helm, and fails without it: a test that cannot run must not look
//! green. `FAIRWAY_UPDATE=1` writes goldens and copies anew.
#![allow(clippy::unwrap_used)] // The helpers are test code too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Golden and the values that it is rendered with.
const GOLDENS: [(&str, &[&str]); 2] = [
    ("default", &[]),
    ("ha", &["-f", "charts/fairway/values-ha.yaml"]),
];

#[test]
fn the_charts_lint() {
    for arguments in [
        &["lint", "--strict", "charts/fairway-crds", "charts/fairway"][..],
        &[
            "lint",
            "--strict",
            "charts/fairway",
            "-f",
            "charts/fairway/values-ha.yaml",
        ],
    ] {
        let output = helm(arguments);
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn the_goldens_are_fresh() {
    for (name, values) in GOLDENS {
        fresh(
            &root().join(format!("charts/goldens/{name}.yaml")),
            &render(values).unwrap(),
        );
    }
}

#[test]
fn the_chart_has_the_crds_of_the_crate() {
    let files = fairway_crds::generate::files().unwrap();
    let names: BTreeSet<String> = files.iter().map(|(name, _)| name.clone()).collect();
    for (name, content) in files {
        fresh(
            &root().join("charts/fairway-crds/files").join(name),
            &content,
        );
    }
    let entries = std::fs::read_dir(root().join("charts/fairway-crds/files")).unwrap();
    let found = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, found);
}

#[test]
fn uninstalling_keeps_the_crds() {
    let output = helm(&[
        "template",
        "x",
        "charts/fairway-crds",
        "--kube-version",
        KUBE_VERSION,
    ]);
    let rendered = objects(&String::from_utf8(output.stdout).unwrap());
    let definitions = fairway_crds::generate::all();
    assert_eq!(rendered.len(), definitions.len());
    for (rendered, definition) in rendered.iter().zip(definitions) {
        let policy = &rendered["metadata"]["annotations"]["helm.sh/resource-policy"];
        assert_eq!(policy, "keep", "{}", rendered["metadata"]["name"]);
        assert_eq!(
            rendered["spec"],
            serde_json::to_value(definition.spec).unwrap()
        );
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for bad in [
        "trustDomain=",
        "trustDomain=Fairway.local",
        "trustDomain=fairway..local",
        "image.tag=",
        "image.registry=",
        "image.pullPolicy=Sometimes",
        "log.format=xml",
        "tracing.otlpEndpoint=collector:4317",
        "relay.replicas=0",
        "relay.replicas=two",
        "relay.service.type=ExternalName",
        "relay.service.nodePort=70000",
        "relay.externalAddresses={relay.example.com}",
        "relay.externalAddresses={a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1,j:1,k:1,l:1,m:1,n:1,o:1,p:1,q:1}",
        "relay.externalAddresses={https://relay.example.com:1}",
        "relay.tls.secretName=Relay",
        "relay.service.quic=maybe",
        "sidecar.resources.limits.memory=lots",
        "replicas=3",
        "relay.replica=3",
    ] {
        let rendered = render(&["--set", bad]);
        let refused = rendered
            .as_ref()
            .is_err_and(|error| error.contains("values don't meet"));
        assert!(refused, "{bad}: {rendered:.300?}");
    }
    for good in [
        "trustDomain=example.com",
        "relay.externalAddresses={relay.example.com:443,203.0.113.9:30740,[2001:db8::1]:7440}",
        "relay.externalAddresses={quic://relay.example.com:7440,wss://relay.example.com:443}",
        "relay.tls.secretName=relay-tls",
        "relay.service.quic=false",
        "relay.service.type=ClusterIP",
        "injector.excludedNamespaces={cilium}",
    ] {
        let rendered = render(&["--set", good]);
        assert!(rendered.is_ok(), "{good}: {rendered:?}");
    }
}

#[test]
fn values_reach_their_places() {
    let rendered = render(&[
        "--set",
        "trustDomain=example.com,image.registry=r.example.com/f,image.tag=v9",
        "--set",
        "relay.service.nodePort=30740,relay.service.quicNodePort=30741,relay.service.tlsNodePort=30743",
        "--set",
        "relay.tls.secretName=relay-tls",
        "--set",
        "relay.externalAddresses={a.example.com:1,b.example.com:2},image.pullSecrets={pull}",
        "--set",
        "injector.excludedNamespaces={cilium},tracing.otlpEndpoint=http://c:4317",
    ])
    .unwrap();
    for wanted in [
        "image: r.example.com/f/fairway-operator:v9",
        "image: r.example.com/f/fairway-authority:v9",
        "image: r.example.com/f/fairway-relay:v9",
        "value: r.example.com/f/fairway-sidecar:v9",
        "value: \"a.example.com:1,b.example.com:2\"",
        "value: \"example.com\"",
        "value: \"http://c:4317\"",
        "nodePort: 30740",
        "nodePort: 30741",
        "nodePort: 30743",
        "secret: {secretName: relay-tls, defaultMode: 0440}",
        "value: /var/run/secrets/fairway-tls/tls.key",
        "- name: pull",
        "values: [kube-system, kube-public, kube-node-lease, fairway-system, cilium]",
    ] {
        assert!(rendered.contains(wanted), "{wanted}");
    }
}

/// The Pod Security Standard `restricted`, and a little more.
#[test]
fn every_pod_is_restricted() {
    for (golden, _) in GOLDENS {
        let deployments = of_kind(&golden_objects(golden), "Deployment");
        assert_eq!(deployments.len(), 3);
        for deployment in deployments {
            let pod = &deployment["spec"]["template"]["spec"];
            let name = &deployment["metadata"]["name"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{name}"
            );
            for key in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
                assert!(pod[key].is_null(), "{name} has {key}");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                let allowed = volume["emptyDir"].is_object() || volume["projected"].is_object();
                assert!(allowed, "{name}: {volume}");
            }
            for container in pod["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(
                    security["capabilities"],
                    serde_json::json!({"drop": ["ALL"]}),
                    "{name}"
                );
                assert!(security["privileged"].is_null(), "{name}");
                assert_ne!(security["runAsUser"], 0, "{name}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{name}"
                );
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    assert!(container[probe].is_object(), "{name} without {probe}");
                }
            }
        }
    }
}

/// The containers that end channels of strangers have no rights at the API server.
#[test]
fn what_parses_the_network_has_no_token() {
    let deployments = of_kind(&golden_objects("default"), "Deployment");
    let named = |name: &str| {
        let found = deployments
            .iter()
            .find(|object| object["metadata"]["name"] == name);
        found.unwrap()["spec"]["template"]["spec"].clone()
    };
    for name in ["fairway-authority", "fairway-relay"] {
        assert_eq!(named(name)["automountServiceAccountToken"], false, "{name}");
    }
    let authority = named("fairway-authority");
    let containers = authority["containers"].as_array().unwrap();
    let mounts = |n: usize| -> Vec<&str> {
        let mounts = containers[n]["volumeMounts"].as_array().unwrap();
        mounts
            .iter()
            .map(|mount| mount["name"].as_str().unwrap())
            .collect()
    };
    assert_eq!(
        (containers[0]["name"].as_str(), mounts(0)),
        (Some("authority"), vec!["socket", "api"])
    );
    assert_eq!(
        (containers[1]["name"].as_str(), mounts(1)),
        (Some("front"), vec!["socket"])
    );
    assert_ne!(
        containers[1]["securityContext"]["runAsUser"], authority["securityContext"]["runAsUser"],
        "the front must not be able to look into the authority's process"
    );
    let relay = named("fairway-relay");
    let sources = relay["volumes"][0]["projected"]["sources"]
        .as_array()
        .unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0]["serviceAccountToken"]["audience"], "fairway");
}

#[test]
fn no_role_asks_for_more_than_it_needs() {
    let objects = golden_objects("default");
    let roles = [of_kind(&objects, "ClusterRole"), of_kind(&objects, "Role")].concat();
    assert!(!roles.is_empty());
    for role in &roles {
        let name = role["metadata"]["name"].as_str().unwrap();
        for rule in role["rules"].as_array().unwrap() {
            check_rule(name, role["kind"] == "ClusterRole", rule);
        }
    }
    // Who may change pods cannot read keys, and the other way round.
    let bound = |account: &str| {
        let roles = roles
            .iter()
            .filter(|role| role["metadata"]["name"] == account);
        serde_json::to_string(&roles.collect::<Vec<_>>()).unwrap()
    };
    assert!(!bound("fairway-operator").contains("fairway-root"));
    assert!(!bound("fairway-operator").contains("fairway-issuer"));
    assert!(!bound("fairway-authority").contains("webhook"));
    let bindings = [
        of_kind(&objects, "ClusterRoleBinding"),
        of_kind(&objects, "RoleBinding"),
    ]
    .concat();
    for binding in bindings {
        assert_ne!(
            binding["subjects"][0]["name"], "fairway-relay",
            "the relay has no rights"
        );
    }
}

fn check_rule(role: &str, cluster_wide: bool, rule: &Value) {
    let strings = |key: &str| -> Vec<String> {
        let list = rule[key].as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let verbs = strings("verbs");
    for key in ["apiGroups", "resources", "verbs"] {
        assert!(
            !strings(key).is_empty() && !strings(key).contains(&"*".to_owned()),
            "{role}: {rule}"
        );
    }
    for resource in strings("resources") {
        let secretive = ["secrets", "configmaps"].contains(&resource.as_str());
        if secretive {
            assert!(!cluster_wide, "{role} would reach {resource} everywhere");
            let named = !strings("resourceNames").is_empty();
            assert!(
                named || verbs == ["create"],
                "{role} would reach any of {resource}"
            );
        }
        // No way to run something, and none to change what runs.
        let writes = verbs
            .iter()
            .any(|verb| !["get", "list", "watch"].contains(&verb.as_str()));
        let group = strings("apiGroups").concat();
        assert!(!(writes && resource == "pods"), "{role} would change pods");
        assert!(
            !["apps", "batch", "rbac.authorization.k8s.io"].contains(&group.as_str()),
            "{role}"
        );
    }
}

#[test]
fn the_webhook_can_never_stop_the_system() {
    let webhooks = of_kind(&golden_objects("default"), "MutatingWebhookConfiguration");
    let entries = webhooks[0]["webhooks"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert_eq!(entry["failurePolicy"], "Fail");
        assert_eq!(entry["sideEffects"], "None");
        assert!(
            entry["clientConfig"]["caBundle"].is_null(),
            "the operator's to write"
        );
        let expressions = entry["namespaceSelector"]["matchExpressions"]
            .as_array()
            .unwrap();
        let excluded = expressions
            .iter()
            .find(|e| e["operator"] == "NotIn")
            .unwrap();
        assert_eq!(excluded["key"], "kubernetes.io/metadata.name");
        for namespace in ["kube-system", "fairway-system"] {
            assert!(
                excluded["values"]
                    .as_array()
                    .unwrap()
                    .contains(&namespace.into())
            );
        }
    }
}

#[test]
fn every_pod_has_a_budget_and_a_selector_that_finds_it() {
    for (golden, _) in GOLDENS {
        let objects = golden_objects(golden);
        for deployment in of_kind(&objects, "Deployment") {
            let labels = &deployment["spec"]["template"]["metadata"]["labels"];
            let finds = |kind: &str, selector: fn(&Value) -> &Value| {
                of_kind(&objects, kind)
                    .iter()
                    .filter(|object| selector(object) == labels)
                    .count()
            };
            let name = &deployment["metadata"]["name"];
            let budgets = finds(
                "PodDisruptionBudget",
                |o| &o["spec"]["selector"]["matchLabels"],
            );
            assert_eq!(budgets, 1, "{name}");
            assert!(finds("Service", |o| &o["spec"]["selector"]) >= 1, "{name}");
            assert_eq!(
                &deployment["spec"]["selector"]["matchLabels"], labels,
                "{name}"
            );
        }
    }
}

/// The Kubernetes that is rendered for; the oldest that the chart takes.
const KUBE_VERSION: &str = "1.33.0";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The path of helm: `$HELM`, the PATH, or what `e2e/cluster/programs.sh` built.
fn helm_path() -> PathBuf {
    if let Some(named) = std::env::var_os("HELM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("helm"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let built = cache
        .into_iter()
        .filter_map(|cache| cache.join("fairway").read_dir().ok());
    let mut built: Vec<PathBuf> = built
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("helm")))
        .filter(|path| {
            path.parent()
                .is_some_and(|p| p.to_string_lossy().contains("/programs-"))
        })
        .collect();
    built.sort();
    let found = on_path
        .chain(built.into_iter().rev())
        .find(|path| path.is_file());
    found.expect(
        "these tests need helm, and there is none: install it, name it by HELM=..., \
         or build it by `e2e/cluster/programs.sh helm`",
    )
}

fn helm(arguments: &[&str]) -> Output {
    let path = helm_path();
    let output = Command::new(&path)
        .current_dir(root())
        .args(arguments)
        .output();
    output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", path.display()))
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn render(values: &[&str]) -> Result<String, String> {
    let base = [
        "template",
        "fairway",
        "charts/fairway",
        "-n",
        "fairway-system",
        "--kube-version",
        KUBE_VERSION,
    ];
    let output = helm(&[&base[..], values].concat());
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(told(&output))
    }
}

fn golden_objects(name: &str) -> Vec<Value> {
    let path = root().join(format!("charts/goldens/{name}.yaml"));
    objects(&std::fs::read_to_string(path).unwrap())
}

fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    let values = documents.map(|document| serde::Deserialize::deserialize(document).unwrap());
    values.filter(|value: &Value| !value.is_null()).collect()
}

fn of_kind(objects: &[Value], kind: &str) -> Vec<Value> {
    objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .cloned()
        .collect()
}

/// Compares a file with what it should be, or writes it.
fn fresh(path: &Path, content: &str) {
    if std::env::var_os("FAIRWAY_UPDATE").is_some() {
        std::fs::write(path, content).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let name = path.strip_prefix(root()).unwrap().display();
    let line = found.lines().zip(content.lines()).position(|(a, b)| a != b);
    assert!(
        found == content,
        "{name} is stale from line {}: FAIRWAY_UPDATE=1 cargo test -p fairway-cli --test charts",
        line.map_or(found.lines().count(), |n| n) + 1,
    );
}
