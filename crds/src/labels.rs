//! Labels, annotations and fixed names that Fairway uses in a cluster.

/// Label on a namespace or a pod: [`INJECT_ENABLED`] or [`INJECT_DISABLED`].
pub const INJECT: &str = "fairway.dev/inject";
/// Value of [`INJECT`]: the pod gets a sidecar.
pub const INJECT_ENABLED: &str = "enabled";
/// Value of [`INJECT`]: the pod gets none, whatever its namespace says.
pub const INJECT_DISABLED: &str = "disabled";

/// Annotation on a pod: inlets, `1883=mosquitto.factory.svc.fairway.internal:1883, ...`.
pub const INLETS: &str = "fairway.dev/inlets";
/// Annotation on a pod: ports that may be delivered to although they listen
/// beyond loopback, `8080, 9090`.
pub const ALLOW_EXPOSED_PORTS: &str = "fairway.dev/allow-exposed-ports";
/// Annotation on a pod: `true` sets `http_proxy` in the app's containers.
pub const HTTP_PROXY_ENV: &str = "fairway.dev/http-proxy-env";
/// Annotation on a pod: `false` leaves the app's probes as they are; otherwise
/// the kubelet asks the sidecar, and the sidecar the app, over loopback.
pub const MOVE_PROBES: &str = "fairway.dev/move-probes";
/// Annotation that the injector leaves on a pod: the version that injected it.
pub const INJECTED: &str = "fairway.dev/injected";

/// Name of the container that the injector adds.
pub const SIDECAR_CONTAINER: &str = "fairway-sidecar";

/// ConfigMap in the install namespace with what everybody may know: made by
/// the authority, read by the injector and the command line.
pub const TRUST_CONFIG_MAP: &str = "fairway-trust";
/// Key of [`TRUST_CONFIG_MAP`]: hash of the root key.
pub const TRUST_ROOT_HASH: &str = "rootHash";
/// Key of [`TRUST_CONFIG_MAP`]: the trust domain.
pub const TRUST_DOMAIN: &str = "trustDomain";
/// Key of [`TRUST_CONFIG_MAP`]: relay addresses for tickets, `host:port`,
/// separated by commas; may be empty.
pub const TRUST_RELAYS: &str = "relays";

/// Audience of the projected ServiceAccount token.
pub const TOKEN_AUDIENCE: &str = "fairway";
