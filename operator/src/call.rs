//! Calls to the API server, each with a bound on its time.

use std::future::Future;

use crate::limits::REQUEST_TIMEOUT;

/// Why a call to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It answered with an error, or not at all.
    #[error("the API server refused or could not be reached")]
    Kube(#[from] Box<kube::Error>),
    /// It did not answer in time.
    #[error("the API server did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl CallError {
    /// The status code, if the API server gave one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout => None,
        }
    }

    /// Somebody else was first: made it, or changed it.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
}

/// Waits for a call, but not for ever: kube's client has no bound of its own.
///
/// # Errors
/// The call's own, or that it took too long.
pub async fn bounded<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| CallError::Kube(Box::new(error))),
        Err(_) => Err(CallError::Timeout),
    }
}
