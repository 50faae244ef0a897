//! A pod of a scenario, as its user deals with it.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use futures::AsyncBufRead;
use k8s_openapi::api::core::v1::Pod as Resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, DeleteParams, LogParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use crate::lines::Lines;
use crate::process::Output;
use crate::wait::{LATER, SOON, eventually, within};

/// Where a sidecar's proxy is, for the app beside it.
pub const PROXY: &str = "http://127.0.0.1:7480";

/// The sidecar's `/debug/state`, on its loopback.
const DEBUG_PORT: u16 = 7491;

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    api: Api<Resource>,
    name: String,
}

/// What `app get` was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Pod {
    pub(crate) fn new(api: Api<Resource>, name: &str) -> Self {
        Self {
            api,
            name: name.to_owned(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Deletes it.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn delete(&self, how: &DeleteParams) -> Result<()> {
        self.api.delete(&self.name, how).await?;
        Ok(())
    }

    /// Waits until the pod of this UID is gone.
    ///
    /// # Errors
    /// It is not, for too long.
    pub async fn gone(&self, uid: &str) -> Result<()> {
        within(&format!("pod {} to be gone", self.name), LATER, async {
            await_condition(self.api.clone(), &self.name, conditions::is_deleted(uid)).await?;
            Ok(())
        })
        .await
    }

    /// Waits until the kubelet says that it is ready.
    ///
    /// # Errors
    /// It is not, for too long.
    pub async fn ready(&self) -> Result<Resource> {
        let ready = |pod: Option<&Resource>| pod.is_some_and(is_ready);
        within(&format!("pod {} to be ready", self.name), LATER, async {
            let pod = await_condition(self.api.clone(), &self.name, ready).await?;
            pod.context("it went away")
        })
        .await
    }

    /// Waits until its sidecar has said at every relay which names it answers to.
    ///
    /// # Errors
    /// It has not, for too long.
    pub async fn reachable(&self) -> Result<()> {
        eventually(
            &format!("pod {} to be registered", self.name),
            SOON,
            async || {
                let state = self.debug_state().await?;
                let names = state["names"].as_array().context("no names")?;
                let links = state["links"].as_array().context("no links")?;
                ensure!(!names.is_empty() && !links.is_empty(), "{state}");
                let registered = |link: &Value| {
                    names.iter().all(|name| {
                        link["registered"]
                            .as_array()
                            .is_some_and(|there| there.contains(name))
                    })
                };
                ensure!(links.iter().all(registered), "{state}");
                Ok(())
            },
        )
        .await
    }

    /// The sidecar's `/debug/state`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn debug_state(&self) -> Result<Value> {
        let mut ports = self.api.portforward(&self.name, &[DEBUG_PORT]).await?;
        let mut stream = ports.take_stream(DEBUG_PORT).context("no stream")?;
        stream
            .write_all(b"GET /debug/state HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("no answer: {answer}"))?;
        Ok(serde_json::from_str(body)?)
    }

    /// Runs the app's program in its container: `app get URL`, and so on.
    ///
    /// # Errors
    /// It cannot be run. That it fails is in the output.
    pub async fn app(&self, args: &[&str]) -> Result<Output> {
        let command: Vec<&str> = std::iter::once("/app")
            .chain(args.iter().copied())
            .collect();
        within(
            &format!("{command:?} in pod {}", self.name),
            SOON * 2,
            async {
                let params = AttachParams::default().container("app").stdin(false);
                let mut process = self.api.exec(&self.name, command.clone(), &params).await?;
                let status = process.take_status().context("no status")?;
                let (stdout, stderr) = (
                    process.stdout().context("no stdout")?,
                    process.stderr().context("no stderr")?,
                );
                let (stdout, stderr, status) = tokio::join!(text(stdout), text(stderr), status);
                let ok = status
                    .is_some_and(|status: Status| status.status.as_deref() == Some("Success"));
                Ok(Output {
                    ok,
                    stdout: stdout?,
                    stderr: stderr?,
                })
            },
        )
        .await
    }

    /// One HTTP request through the sidecar's proxy.
    ///
    /// # Errors
    /// There was no answer at all.
    pub async fn get(&self, url: &str, more: &[&str]) -> Result<Answer> {
        let args = [&["get", "-proxy", PROXY], more, &[url]].concat();
        self.app(&args).await?.succeeded()?.parse()
    }

    /// Follows the log of a container from its beginning.
    ///
    /// # Errors
    /// There is none.
    pub async fn log(&self, container: &str) -> Result<Lines> {
        let params = LogParams {
            follow: true,
            container: Some(container.to_owned()),
            ..LogParams::default()
        };
        let stream: Box<dyn AsyncBufRead + Send + Unpin> =
            Box::new(Box::pin(self.api.log_stream(&self.name, &params).await?));
        let lines = Lines::from_sources(1);
        tokio::spawn(lines.clone().read(stream.compat()));
        Ok(lines)
    }
}

impl std::str::FromStr for Answer {
    type Err = anyhow::Error;

    fn from_str(output: &str) -> Result<Self> {
        let (status, body) = output
            .split_once('\n')
            .with_context(|| format!("no status: {output}"))?;
        let status = status
            .strip_prefix("STATUS ")
            .with_context(|| format!("no status: {output}"))?;
        Ok(Self {
            status: status.trim().parse()?,
            body: body.to_owned(),
        })
    }
}

impl Answer {
    /// The body of a 200, as JSON.
    ///
    /// # Errors
    /// It is something else.
    pub fn echo(&self) -> Result<Value> {
        ensure!(self.status == 200, "{self}");
        serde_json::from_str(&self.body).with_context(|| self.to_string())
    }

    /// That it is this status, and says each of `words`.
    ///
    /// # Errors
    /// It is not so.
    pub fn is(&self, status: u16, words: &[&str]) -> Result<()> {
        ensure!(self.status == status, "expected {status}: {self}");
        for word in words {
            ensure!(self.body.contains(word), "expected {word:?}: {self}");
        }
        Ok(())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "STATUS {}: {}", self.status, self.body.trim_end())
    }
}

/// Whether the condition Ready holds.
pub fn is_ready(pod: &Resource) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

async fn text(mut source: impl AsyncRead + Unpin) -> Result<String> {
    let mut text = String::new();
    source.read_to_string(&mut text).await?;
    Ok(text)
}
