//! What the operator is told when it starts: flags, or the environment.

use std::net::SocketAddr;

use clap::Parser;
use fairway_daemon::{AdminArgs, LogArgs};
use fairway_identity::{HostPort, TrustDomain};

use crate::controllers::Settings;
use crate::inject::InjectConfig;
use crate::webhook::review::InjectTemplate;

/// Namespaces of Kubernetes itself: never injected, whatever their labels.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Fairway's controllers and sidecar injector.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway-operator", version)]
pub struct Args {
    /// Namespace that Fairway is installed in.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of this replica's pod; the election needs it to be this one's alone.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// The trust domain of the installation.
    #[arg(long, env = "FAIRWAY_TRUST_DOMAIN")]
    pub trust_domain: String,

    /// Image of the sidecar.
    #[arg(long, env = "FAIRWAY_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// imagePullPolicy of the sidecar; Kubernetes' default if not given.
    #[arg(long, env = "FAIRWAY_SIDECAR_IMAGE_PULL_POLICY")]
    pub sidecar_image_pull_policy: Option<String>,
    /// HOST:PORT of the authority; Service fairway-authority if not given.
    #[arg(long, env = "FAIRWAY_AUTHORITY")]
    pub authority: Option<String>,
    /// CPU request of the sidecar.
    #[arg(long, env = "FAIRWAY_SIDECAR_CPU_REQUEST", default_value = "10m")]
    pub sidecar_cpu_request: String,
    /// Memory request of the sidecar.
    #[arg(long, env = "FAIRWAY_SIDECAR_MEMORY_REQUEST", default_value = "32Mi")]
    pub sidecar_memory_request: String,
    /// Memory limit of the sidecar.
    #[arg(long, env = "FAIRWAY_SIDECAR_MEMORY_LIMIT", default_value = "128Mi")]
    pub sidecar_memory_limit: String,
    /// Where sidecars send their spans over OTLP; nowhere if not given.
    #[arg(long, env = "FAIRWAY_SIDECAR_OTLP_ENDPOINT")]
    pub sidecar_otlp_endpoint: Option<String>,
    /// Whether probes of apps are pointed at their sidecar.
    #[arg(long, env = "FAIRWAY_MOVE_PROBES", default_value = "true", action = clap::ArgAction::Set)]
    pub move_probes: bool,

    /// Address of the webhook.
    #[arg(long, env = "FAIRWAY_WEBHOOK_LISTEN", default_value = "0.0.0.0:9443")]
    pub webhook_listen: SocketAddr,
    /// Service by which the API server reaches the webhook.
    #[arg(
        long,
        env = "FAIRWAY_WEBHOOK_SERVICE",
        default_value = "fairway-operator"
    )]
    pub webhook_service: String,
    /// Name of the MutatingWebhookConfiguration.
    #[arg(
        long,
        env = "FAIRWAY_WEBHOOK_CONFIGURATION",
        default_value = "fairway-injector"
    )]
    pub webhook_configuration: String,

    /// How long a ticket stays after it was used or has expired, in seconds.
    #[arg(
        long,
        env = "FAIRWAY_TICKET_RETENTION_SECONDS",
        default_value = "86400"
    )]
    pub ticket_retention_seconds: u32,

    /// Admin ports.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What is wrong with a flag.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The trust domain is malformed.
    #[error("--trust-domain {text:?} cannot be used; write a DNS name such as fairway.local")]
    TrustDomain {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: fairway_identity::NameError,
    },
    /// The authority's address is malformed.
    #[error("--authority {text:?} cannot be used; write HOST:PORT")]
    Authority {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: fairway_identity::AddressError,
    },
}

impl Args {
    /// What sidecars are like, but for the root hash.
    ///
    /// # Errors
    /// A value cannot be used.
    pub fn inject_template(&self) -> Result<InjectTemplate, ConfigError> {
        TrustDomain::new(&self.trust_domain).map_err(|source| ConfigError::TrustDomain {
            text: self.trust_domain.clone(),
            source,
        })?;
        let authority = self
            .authority
            .clone()
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| format!("fairway-authority.{}.svc:7441", self.namespace));
        if let Err(source) = authority.parse::<HostPort>() {
            return Err(ConfigError::Authority {
                text: authority,
                source,
            });
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(InjectTemplate::new(InjectConfig {
            image: self.sidecar_image.clone(),
            image_pull_policy: given(&self.sidecar_image_pull_policy),
            trust_domain: self.trust_domain.clone(),
            root_hash: String::new(),
            authority,
            cpu_request: self.sidecar_cpu_request.clone(),
            memory_request: self.sidecar_memory_request.clone(),
            memory_limit: self.sidecar_memory_limit.clone(),
            otlp_endpoint: given(&self.sidecar_otlp_endpoint),
            move_probes: self.move_probes,
        }))
    }

    /// What the controllers need.
    pub fn controller_settings(&self) -> Settings {
        let system = SYSTEM_NAMESPACES.into_iter().map(str::to_owned);
        Settings {
            trust_domain: self.trust_domain.clone(),
            ticket_retention: jiff::SignedDuration::from_secs(self.ticket_retention_seconds.into()),
            system_namespaces: system.chain([self.namespace.clone()]).collect(),
            instance: self.pod_name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(extra: &[&str]) -> Args {
        let base = [
            "fairway-operator",
            "--namespace",
            "fairway-system",
            "--pod-name",
            "p",
            "--trust-domain",
            "fairway.local",
            "--sidecar-image",
            "i",
        ];
        Args::try_parse_from(base.iter().chain(extra)).unwrap()
    }

    #[test]
    fn what_is_malformed_is_refused_at_once() {
        args(&[]).inject_template().unwrap();
        args(&["--authority", "a.example:7441"])
            .inject_template()
            .unwrap();
        for extra in ["a.example", "a.example:0", ":7441"] {
            let error = args(&["--authority", extra]).inject_template().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
        let mut args = args(&[]);
        args.trust_domain = "Not A Name".to_owned();
        assert!(args.inject_template().is_err());
    }

    #[test]
    fn the_install_namespace_is_a_system_namespace() {
        let settings = args(&[]).controller_settings();
        assert!(
            settings
                .system_namespaces
                .contains(&"fairway-system".to_owned())
        );
    }
}
