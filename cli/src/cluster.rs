//! The cluster: a client that gives up in time, and errors that say what to do.

use std::fmt::Debug;
use std::future::Future;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::Status;
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::limits;

/// Why the cluster did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No kubeconfig, or none that can be read.
    #[error(
        "no cluster: there is no usable kubeconfig; name one by --kubeconfig or KUBECONFIG, and a context in it by --context"
    )]
    NoConfig(#[source] Box<KubeconfigError>),
    /// What the kubeconfig says does not make a client.
    #[error("no cluster: the kubeconfig's entry for {server} cannot be used")]
    Unusable {
        /// URL of the API server.
        server: String,
        /// What is wrong with it.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nothing answers there.
    #[error(
        "no cluster: {server} cannot be reached; is it up, and is the kubeconfig's context the right one?"
    )]
    Unreachable {
        /// URL of the API server.
        server: String,
        /// What went wrong.
        #[source]
        source: Box<kube::Error>,
    },
    /// It takes too long.
    #[error("the cluster at {server} did not answer in {} s; try again, or look after the API server", limits::ANSWER_TIMEOUT.as_secs())]
    TimedOut {
        /// URL of the API server.
        server: String,
    },
    /// It does not know the user.
    #[error("the cluster at {server} does not accept your credentials; log in again")]
    Unauthenticated {
        /// URL of the API server.
        server: String,
    },
    /// The user lacks a permission.
    #[error("no permission: {message}; ask for it whoever administers the cluster")]
    Forbidden {
        /// What the API server says: who, which verb, what, where.
        message: String,
    },
    /// Fairway's resources are not there.
    #[error(
        "this cluster knows no resources of fairway.dev/v1alpha1: install them by `helm install fairway-crds charts/fairway-crds`"
    )]
    NotInstalled,
    /// The API server refused for another reason.
    #[error("the cluster refused to {what}: {message}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What the API server says.
        message: String,
    },
    /// Anything else.
    #[error("cannot {what}")]
    Other {
        /// What was asked for.
        what: String,
        /// What went wrong.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A cluster and the two namespaces that matter.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    server: String,
    /// The namespace that the user works in.
    pub namespace: String,
    /// Whether the user named it, rather than the context.
    pub namespace_given: bool,
    /// The namespace that Fairway is installed in.
    pub install_namespace: String,
}

/// Objects of one kind, and whether there were more than are looked at.
#[derive(Debug)]
pub struct Listed<K> {
    /// The objects.
    pub items: Vec<K>,
    /// Whether some were left out.
    pub truncated: bool,
}

impl Cluster {
    /// Reads the kubeconfig and makes a client. Nothing is asked yet.
    pub async fn connect(global: &Global) -> Result<Self, ClusterError> {
        let no_config = |error| ClusterError::NoConfig(Box::new(error));
        let options = KubeConfigOptions {
            context: global.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match &global.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(no_config)?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(no_config)?
            }
            None => Config::from_kubeconfig(&options).await.map_err(no_config)?,
        };
        config.connect_timeout = Some(limits::CONNECT_TIMEOUT);
        config.read_timeout = Some(limits::ANSWER_TIMEOUT);
        let server = config
            .cluster_url
            .to_string()
            .trim_end_matches('/')
            .to_owned();
        let context_namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|source| ClusterError::Unusable {
            server: server.clone(),
            source: Box::new(source),
        })?;
        Ok(Self::new(client, server, &context_namespace, global))
    }

    /// A cluster by a client that is there already.
    pub fn new(client: Client, server: String, context_namespace: &str, global: &Global) -> Self {
        let given = global.namespace.as_deref();
        Self {
            client,
            server,
            namespace: given.unwrap_or(context_namespace).to_owned(),
            namespace_given: given.is_some(),
            install_namespace: global.install_namespace.clone(),
        }
    }

    /// Objects of a kind in one namespace.
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of a kind in all namespaces.
    pub fn everywhere<K>(&self) -> Api<K>
    where
        K: Resource,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// Objects of a kind that has no namespaces.
    pub fn clusterwide<K>(&self) -> Api<K>
    where
        K: Resource<Scope = ClusterResourceScope>,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// An object; `None` if there is none of this name.
    pub async fn find<K>(&self, api: &Api<K>, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let what = format!("read {name}");
        match self.within(api.get(name)).await? {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if is_missing_object(&status) => Ok(None),
            Err(error) => Err(self.explain(what, error)),
        }
    }

    /// All objects of a kind, in pages; at most [`limits::OBJECTS`].
    pub async fn list<K>(&self, api: &Api<K>, params: ListParams) -> Result<Listed<K>, ClusterError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let mut items = Vec::new();
        let mut params = params.limit(limits::PAGE);
        loop {
            let page = self
                .within(api.list(&params))
                .await?
                .map_err(|error| self.explain("list".to_owned(), error))?;
            items.extend(page.items);
            let next = page.metadata.continue_.filter(|token| !token.is_empty());
            let Some(token) = next else {
                return Ok(Listed {
                    items,
                    truncated: false,
                });
            };
            if items.len() >= limits::OBJECTS {
                return Ok(Listed {
                    items,
                    truncated: true,
                });
            }
            params = params.continue_token(&token);
        }
    }

    /// Makes an object.
    pub async fn create<K>(&self, api: &Api<K>, object: &K, what: &str) -> Result<K, ClusterError>
    where
        K: Clone + DeserializeOwned + Serialize + Debug,
    {
        let params = PostParams {
            field_manager: Some("kubectl-fairway".to_owned()),
            ..Default::default()
        };
        let created = self.within(api.create(&params, object)).await?;
        created.map_err(|error| self.explain(format!("make {what}"), error))
    }

    /// The version of the API server, as `(major, minor)`, with its text.
    pub async fn version(&self) -> Result<(u32, u32, String), ClusterError> {
        let info = self
            .within(self.client.apiserver_version())
            .await?
            .map_err(|error| self.explain("ask for its version".to_owned(), error))?;
        let number = |text: &str| text.trim_end_matches('+').parse().unwrap_or(0);
        Ok((number(&info.major), number(&info.minor), info.git_version))
    }

    /// URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Result<T, kube::Error>, ClusterError> {
        tokio::time::timeout(limits::ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| ClusterError::TimedOut {
                server: self.server.clone(),
            })
    }

    fn explain(&self, what: String, error: kube::Error) -> ClusterError {
        let server = self.server.clone();
        match error {
            kube::Error::Api(status) => self.explain_status(what, *status),
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::Auth(_) => {
                ClusterError::Unreachable {
                    server,
                    source: Box::new(error),
                }
            }
            other => ClusterError::Other {
                what,
                source: Box::new(other),
            },
        }
    }

    fn explain_status(&self, what: String, status: Status) -> ClusterError {
        let message = status.message.trim_end_matches('.').to_owned();
        match status.code {
            401 => ClusterError::Unauthenticated {
                server: self.server.clone(),
            },
            403 => ClusterError::Forbidden { message },
            // Asked for the objects of a kind, so it is the kind that is missing.
            404 => ClusterError::NotInstalled,
            _ => ClusterError::Refused { what, message },
        }
    }
}

/// Whether a 404 speaks of an object, rather than of a kind that is not there.
fn is_missing_object(status: &Status) -> bool {
    let named = status
        .details
        .as_ref()
        .is_some_and(|details| !details.name.is_empty());
    status.code == 404 && status.reason == "NotFound" && named
}
