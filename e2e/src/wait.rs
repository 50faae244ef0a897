//! Bounds for everything that is waited for.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, timeout};

/// What takes a moment: a message on its way, a policy that spreads.
pub const SOON: Duration = Duration::from_secs(20);

/// What a kubelet does: a pod that starts or ends, on a machine with two cores
/// and several scenarios at once.
pub const LATER: Duration = Duration::from_secs(90);

/// Between two looks at something that tells nobody when it changes.
const PAUSE: Duration = Duration::from_millis(150);

/// The result of `work`, or an error that says what was waited for in vain.
///
/// # Errors
/// Those of `work`, and that `limit` has passed.
pub async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let result = timeout(limit, work).await;
    result
        .with_context(|| format!("waited {} s for {what}", limit.as_secs()))?
        .with_context(|| format!("waiting for {what}"))
}

/// Tries until it succeeds. For what a user, too, can only see by trying: where
/// there is a log line or an object to watch, that is awaited instead.
///
/// # Errors
/// The last one, once `limit` has passed.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut last = anyhow::anyhow!("the first try did not come to an end");
    loop {
        let error = match tokio::time::timeout_at(end, probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            // Cut off: what the one before said tells more.
            Err(_) => last,
        };
        if Instant::now() + PAUSE >= end {
            return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
        }
        last = error;
        sleep(PAUSE).await;
    }
}
