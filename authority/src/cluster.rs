//! The API server: one client, a time limit on every call.

use std::future::Future;

use kube::{Client, Config};

use crate::limits;

/// Why the API server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It did not answer in time.
    #[error("the API server did not answer within {} s ({action})", limits::API_CALL.as_secs())]
    Timeout {
        /// What was asked for.
        action: &'static str,
    },
    /// The record of revocations is full; the trust set's floor is being raised.
    #[error("the record of revocations is full; the trust set's floor is being raised")]
    Full,
    /// It refused or could not be reached.
    #[error("the API server could not {action}")]
    Call {
        /// What was asked for.
        action: &'static str,
        /// What it said.
        #[source]
        source: kube::Error,
    },
}

impl ApiError {
    /// Whether the object was changed, or made, by somebody else in between.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Call { source: kube::Error::Api(status), .. } if status.code == 409)
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source: kube::Error::Api(status), .. } if status.code == 404)
    }
}

/// Makes the client from the pod's environment, or a kubeconfig outside of one.
///
/// # Errors
/// Neither is there, or it is unreadable.
pub async fn connect() -> Result<Client, anyhow::Error> {
    let mut config = Config::infer().await?;
    // kube has no read timeout by default: a connection that has silently died
    // would be waited on for ever.
    config.read_timeout = Some(limits::API_READ);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// Runs one call of the API server with the time limit of all calls.
pub async fn call<T>(
    action: &'static str,
    future: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(limits::API_CALL, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ApiError::Call { action, source }),
        Err(_) => Err(ApiError::Timeout { action }),
    }
}
