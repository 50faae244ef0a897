//! `ChannelPolicy`: who may open what on the callees of one namespace.

// KubeSchema expands to copies of the structs inside functions, and clippy
// takes the parts of two printcolumns for one attribute.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{limits, rules, schema};

/// A policy belongs to whoever is called, as a lock belongs to a door: it
/// speaks for callees in its own namespace, and for nobody else.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fairway.dev",
    version = "v1alpha1",
    kind = "ChannelPolicy",
    plural = "channelpolicies",
    namespaced,
    cel,
    status = "ChannelPolicyStatus",
    derive = "PartialEq",
    shortname = "fwpol",
    category = "fairway",
    doc = "Who may open what on workloads or devices of this namespace. Without a matching Allow everything is denied; Deny wins over Allow.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.target.devices) || self.to.all(d, !has(d.port))")
        .message("a device has no pod ports: write `service: NAME` in `to` when the target is devices"),
    validation = Rule::new("!has(self.target.workloads) || self.to.all(d, !has(d.service))")
        .message("`service` in `to` is for devices: write `port: NUMBER`, the port that the pod listens on, when the target is workloads")
)]
#[serde(rename_all = "camelCase")]
pub struct ChannelPolicySpec {
    /// What a match does.
    #[serde(default)]
    pub action: PolicyAction,
    /// Whether a match counts, or is only reported.
    #[serde(default)]
    pub mode: PolicyMode,
    /// Whom the policy protects: workloads or devices of its own namespace.
    pub target: TargetSpec,
    /// Callers; one match is enough.
    #[schemars(length(max = limits::RULES_MAX))]
    #[x_kube(validation = rules::not_empty("write who may call, for example `- devices: {namespaces: [factory]}`; a policy for nobody says nothing"))]
    pub from: Vec<CallerSpec>,
    /// What they may open; one match is enough.
    #[schemars(length(max = limits::RULES_MAX))]
    #[x_kube(validation = rules::not_empty("write what may be opened, for example `- port: 8080`, or `- any: true` for every port or service"))]
    pub to: Vec<DoorSpec>,
}

/// What a match does.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum PolicyAction {
    /// It allows.
    #[default]
    Allow,
    /// It denies, whatever else allows.
    Deny,
}

/// Whether a match counts.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum PolicyMode {
    /// It counts.
    #[default]
    Enforce,
    /// It is only reported: an audited policy never changes a verdict.
    Audit,
}

/// Whom a policy protects: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.workloads) != has(self.devices)")
    .message("write exactly one of `workloads` and `devices`; make two policies to protect both"))]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    /// Injected pods of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WorkloadTarget")]
    pub workloads: Option<WorkloadTarget>,
    /// Devices of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DeviceTarget")]
    pub devices: Option<DeviceTarget>,
}

/// Injected pods of the policy's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.podSelector) != has(self.any)")
    .message("write either `podSelector: {matchLabels: {...}}` or, to mean every pod of the namespace, `any: true`"))]
#[serde(rename_all = "camelCase")]
pub struct WorkloadTarget {
    /// Pods by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodSelector")]
    pub pod_selector: Option<PodSelector>,
    /// Every pod of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    #[x_kube(validation = rules::only_true())]
    pub any: Option<bool>,
}

/// Selects pods by their labels, as everywhere in Kubernetes; but an empty one
/// is refused.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.matchLabels) || has(self.matchExpressions)")
    .message("an empty podSelector is refused: write `matchLabels` or `matchExpressions`, or `workloads: {any: true}` to mean every pod of the namespace"))]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// Labels that must have these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::match_labels")]
    #[x_kube(
        validation = rules::not_empty("write at least one label, or leave `matchLabels` out"),
        validation = Rule::new(format!("self.all(k, k.matches('{}'))", schema::LABEL_KEY_PATTERN))
            .message("write keys of labels as Kubernetes has them, for example app.kubernetes.io/name")
    )]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Further requirements; all must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<LabelExpression>", length(max = limits::EXPRESSIONS_MAX))]
    #[x_kube(validation = rules::not_empty("write at least one expression, or leave `matchExpressions` out"))]
    pub match_expressions: Option<Vec<LabelExpression>>,
}

/// One requirement on a label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = rules::values_by_operator())]
#[serde(rename_all = "camelCase")]
pub struct LabelExpression {
    /// Key of the label.
    #[schemars(schema_with = "schema::label_key")]
    pub key: String,
    /// How to compare.
    pub operator: SelectorOperator,
    /// With what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::values")]
    pub values: Option<Vec<String>>,
}

/// Devices of the policy's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.any) != (has(self.names) || has(self.matchAttributes) || has(self.matchExpressions))")
        .message("write `names`, `matchAttributes` or `matchExpressions`, or, to mean every device of the namespace, `any: true` alone")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTarget {
    /// Devices by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::names")]
    #[x_kube(validation = rules::not_empty("an empty list of names is refused: leave `names` out to select by attributes alone"))]
    pub names: Option<Vec<String>>,
    /// Attributes that must have these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::match_attributes")]
    #[x_kube(
        validation = rules::not_empty("write at least one attribute, or leave `matchAttributes` out"),
        validation = rules::attributes()
    )]
    pub match_attributes: Option<BTreeMap<String, String>>,
    /// Further requirements; all must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<AttributeExpression>", length(max = limits::EXPRESSIONS_MAX))]
    #[x_kube(validation = rules::not_empty("write at least one expression, or leave `matchExpressions` out"))]
    pub match_expressions: Option<Vec<AttributeExpression>>,
    /// Every device of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    #[x_kube(validation = rules::only_true())]
    pub any: Option<bool>,
}

/// One requirement on an attribute.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = rules::values_by_operator())]
#[serde(rename_all = "camelCase")]
pub struct AttributeExpression {
    /// Key of the attribute.
    #[schemars(schema_with = "schema::attribute_key")]
    pub key: String,
    /// How to compare.
    pub operator: SelectorOperator,
    /// With what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::values")]
    pub values: Option<Vec<String>>,
}

/// How an expression compares.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum SelectorOperator {
    /// The value is one of `values`.
    In,
    /// The value is none of `values`.
    NotIn,
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
}

/// Callers: exactly one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.devices) != has(self.workloads)")
    .message("write exactly one of `devices` and `workloads` in each entry of `from`; make two entries to mean both"))]
#[serde(rename_all = "camelCase")]
pub struct CallerSpec {
    /// Devices, by what their credentials say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DeviceCallers")]
    pub devices: Option<DeviceCallers>,
    /// Workloads, by ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WorkloadCallers")]
    pub workloads: Option<WorkloadCallers>,
}

/// Calling devices: all that is written must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCallers {
    /// Namespaces of the devices; `["*"]` means every namespace.
    #[schemars(schema_with = "schema::namespaces")]
    #[x_kube(
        validation = rules::not_empty("write the namespaces of the calling devices, or `namespaces: [\"*\"]` to mean every namespace"),
        validation = rules::star_alone("`*` already means every namespace: write it alone")
    )]
    pub namespaces: Vec<String>,
    /// Devices by name; left out, the name does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::names")]
    #[x_kube(validation = rules::not_empty("an empty list of names is refused: leave `names` out to mean every device of the namespaces"))]
    pub names: Option<Vec<String>>,
    /// Attributes that must have these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::match_attributes")]
    #[x_kube(
        validation = rules::not_empty("write at least one attribute, or leave `matchAttributes` out"),
        validation = rules::attributes()
    )]
    pub match_attributes: Option<BTreeMap<String, String>>,
    /// Further requirements; all must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<AttributeExpression>", length(max = limits::EXPRESSIONS_MAX))]
    #[x_kube(validation = rules::not_empty("write at least one expression, or leave `matchExpressions` out"))]
    pub match_expressions: Option<Vec<AttributeExpression>>,
}

/// Calling workloads, by ServiceAccount: labels are not in a credential.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadCallers {
    /// Namespaces of the workloads; `["*"]` means every namespace.
    #[schemars(schema_with = "schema::namespaces")]
    #[x_kube(
        validation = rules::not_empty("write the namespaces of the calling workloads, or `namespaces: [\"*\"]` to mean every namespace"),
        validation = rules::star_alone("`*` already means every namespace: write it alone")
    )]
    pub namespaces: Vec<String>,
    /// ServiceAccounts of the workloads; `*` means every one but `default`,
    /// which has to be named to be meant.
    #[schemars(schema_with = "schema::service_accounts")]
    #[x_kube(
        validation = rules::not_empty("write the ServiceAccounts of the calling workloads, or `serviceAccounts: [\"*\"]` to mean every one but `default`"),
        validation = rules::star_alone("`*` already means every ServiceAccount but `default`: write it alone, and another entry of `from` that names `default` if that is meant too")
    )]
    pub service_accounts: Vec<String>,
}

/// What may be opened: exactly one of `port`, `service` and `any`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("[has(self.port), has(self.service), has(self.any)].filter(x, x).size() == 1")
        .message("write exactly one of `port` (of a pod), `service` (of a device) and `any: true` in each entry of `to`"),
    validation = Rule::new("!has(self.http) || self.protocol == 'HTTP'")
        .message("rules for HTTP need `protocol: HTTP` beside them"),
    validation = Rule::new("!has(self.any) || self.protocol == 'TCP'")
        .message("`any: true` means every port or service, whatever it speaks: write `port` or `service` beside `protocol: HTTP`")
)]
#[serde(rename_all = "camelCase")]
pub struct DoorSpec {
    /// The port that the pod listens on: a Service's targetPort, as in a NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<u16>,
    /// A service of a device, by its name in the DeviceIdentity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DEVICE_SERVICE_BYTES_MAX))]
    #[x_kube(validation = Rule::new(format!("self.matches('{}')", rules::SERVICE_PATTERN))
        .message("write the name of a service of the device, for example metrics"))]
    pub service: Option<String>,
    /// Every port or service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    #[x_kube(validation = rules::only_true())]
    pub any: Option<bool>,
    /// What is spoken. `HTTP` is parsed and checked request by request.
    #[serde(default)]
    pub protocol: Protocol,
    /// Requests; one match is enough. Left out with `protocol: HTTP`: every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<HttpRuleSpec>", length(max = limits::HTTP_RULES_MAX))]
    #[x_kube(validation = rules::not_empty("an empty list of HTTP rules is refused: leave `http` out to mean every request"))]
    pub http: Option<Vec<HttpRuleSpec>>,
}

/// What is spoken behind a door.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Protocol {
    /// Bytes, decided once when a stream is opened.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Requests, decided one by one.
    #[serde(rename = "HTTP")]
    Http,
}

/// One kind of HTTP requests: all that is written must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.methods) || has(self.paths)")
    .message("write `methods`, `paths` or both, for example `methods: [GET], paths: [\"/metrics\"]`"))]
#[serde(rename_all = "camelCase")]
pub struct HttpRuleSpec {
    /// Methods, in upper case; left out, the method does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::methods")]
    #[x_kube(validation = rules::not_empty("an empty list of methods is refused: leave `methods` out to mean every method"))]
    pub methods: Option<Vec<String>>,
    /// Paths: exact, or up to a trailing `/*`; left out, the path does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::paths")]
    #[x_kube(
        validation = rules::not_empty("an empty list of paths is refused: leave `paths` out to mean every path"),
        validation = Rule::new("self.all(p, p.startsWith('/') && (p.indexOf('*') == -1 || (p.endsWith('/*') && p.indexOf('*') == p.size() - 1)))")
            .message("write a path from its first slash, either exact (`/v1/readings`) or with one `*` after the last slash (`/v1/readings/*`)"),
        validation = Rule::new("self.all(p, !p.matches('[?#%\\\\\\\\ ]|//|/\\\\.\\\\.?(/|$)'))")
            .message("write the path as the normal form has it: no query, no percent-encoding, no backslash, no space, no empty or dot segments")
    )]
    pub paths: Option<Vec<String>>,
}

/// What became of a policy.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelPolicyStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the policy can be compiled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
