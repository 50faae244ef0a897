//! Leader election on a Lease.
//!
//! No crate is used: the maintained one for kube (kube-lease-manager) goes on
//! as leader when renewing fails. Here leadership is a span of time: it ends
//! at a moment that was fixed *before* the last successful renewal was sent,
//! and earlier than any other replica may take over. A replica that cannot
//! reach the API server therefore stops by its own clock.
//!
//! Clocks of replicas are never compared. A replica times how long it has
//! seen a Lease unchanged, by its own monotonic clock, as client-go does.

use std::future::Future;
use std::time::Duration;

use fairway_daemon::Drain;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::call::{CallError, bounded};
use crate::metrics::Metrics;

/// How long others wait after they have last seen a Lease change.
const LEASE_TIME: Duration = Duration::from_secs(15);
/// How long a renewal entitles to lead, from before it was sent. What is left
/// to [`LEASE_TIME`] is for requests that are on their way when it ends.
const LEAD_TIME: Duration = Duration::from_secs(10);
/// Time between two looks at the Lease.
const PACE: Duration = Duration::from_secs(2);

/// One replica's part in the election.
#[derive(Clone)]
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    metrics: Metrics,
}

impl Election {
    /// `identity` must be this replica's alone: the name of its pod.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        metrics: Metrics,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            metrics,
        }
    }

    /// Runs what `lead` makes whenever this replica leads, and drops it when
    /// the term ends, until the process drains. Everything that only a leader
    /// may do must happen inside that future: nothing that it spawns is ended.
    pub async fn run<F: Future<Output = ()>>(self, drain: Drain, lead: impl Fn() -> F) {
        tokio::select! {
            () = drain.started() => {}
            () = self.terms(lead) => {}
        }
        self.metrics.leader.set(0);
        self.resign().await;
    }

    async fn terms<F: Future<Output = ()>>(&self, lead: impl Fn() -> F) {
        let identity = &self.identity;
        let mut candidate = Candidate {
            election: self,
            seen: None,
        };
        loop {
            let until = candidate.campaign().await;
            self.metrics.leader.set(1);
            tracing::info!(event = "leader", identity, "leading");
            tokio::select! {
                () = lead() => {}
                () = candidate.hold(until) => {}
            }
            self.metrics.leader.set(0);
            tracing::warn!(event = "leader", identity, "leading no more");
        }
    }

    async fn find(&self) -> Result<Option<Lease>, CallError> {
        bounded(self.leases.get_opt(&self.name)).await
    }

    async fn carry_out(&self, step: Step) -> Result<Option<Lease>, CallError> {
        let params = PostParams::default();
        match step {
            Step::Wait => Ok(None),
            Step::Create => {
                let lease = first(&self.name, &self.identity, Timestamp::now());
                bounded(self.leases.create(&params, &lease)).await.map(Some)
            }
            Step::Hold(lease) => bounded(self.leases.replace(&self.name, &params, &lease))
                .await
                .map(Some),
        }
    }

    /// Gives the Lease back, so that another replica need not wait for it.
    async fn resign(&self) {
        let Ok(Some(mut lease)) = self.find().await else {
            return;
        };
        let spec = lease.spec.as_mut();
        if let Some(spec) = spec.filter(|spec| is_held_by(spec, &self.identity)) {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            if let Err(error) = self.carry_out(Step::Hold(Box::new(lease))).await {
                complain(&error);
            }
        }
    }
}

/// A replica with what it has seen of the Lease.
struct Candidate<'a> {
    election: &'a Election,
    seen: Option<Seen>,
}

/// A version of the Lease, and when it was first seen.
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq)]
enum Step {
    /// Make it.
    Create,
    /// Take it, or stay in it.
    Hold(Box<Lease>),
    /// Somebody else has it.
    Wait,
}

impl Candidate<'_> {
    /// Tries until the Lease is ours; says how long it is for sure.
    async fn campaign(&mut self) -> Instant {
        loop {
            match self.try_hold().await {
                Ok(Some(until)) => return until,
                Ok(None) => {}
                Err(error) => complain(&error),
            }
            sleep(PACE).await;
        }
    }

    /// Renews until that fails for too long or somebody else has the Lease.
    async fn hold(&mut self, mut until: Instant) {
        loop {
            tokio::select! {
                () = sleep(PACE) => {}
                () = sleep_until(until) => return,
            }
            match timeout_at(until, self.try_hold()).await {
                Ok(Ok(Some(longer))) => until = longer,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => complain(&error),
            }
        }
    }

    /// One look, and one attempt. `None`: somebody else has the Lease.
    async fn try_hold(&mut self) -> Result<Option<Instant>, CallError> {
        let until = Instant::now() + LEAD_TIME;
        let found = self.election.find().await?;
        self.see(found.as_ref());
        let identity = &self.election.identity;
        let step = step(found, identity, self.unchanged_for(), Timestamp::now());
        match self.election.carry_out(step).await {
            Ok(None) => Ok(None),
            Ok(written) => {
                self.see(written.as_ref());
                Ok(Some(until))
            }
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn see(&mut self, lease: Option<&Lease>) {
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        if self
            .seen
            .as_ref()
            .is_none_or(|seen| seen.version != version)
        {
            let since = Instant::now();
            self.seen = Some(Seen { version, since });
        }
    }

    fn unchanged_for(&self) -> Duration {
        self.seen
            .as_ref()
            .map_or(Duration::ZERO, |seen| seen.since.elapsed())
    }
}

/// What to do about a Lease that was found, and has not changed for a time.
fn step(found: Option<Lease>, identity: &str, unchanged_for: Duration, now: Timestamp) -> Step {
    let Some(mut lease) = found else {
        return Step::Create;
    };
    let spec = lease.spec.get_or_insert_default();
    let ours = is_held_by(spec, identity);
    let vacant = spec.holder_identity.as_deref().is_none_or(str::is_empty);
    if !ours && !vacant && unchanged_for < LEASE_TIME {
        return Step::Wait;
    }
    if !ours {
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        spec.holder_identity = Some(identity.to_owned());
    }
    spec.lease_duration_seconds = Some(lease_seconds());
    spec.renew_time = Some(MicroTime(now));
    Step::Hold(Box::new(lease))
}

fn first(name: &str, identity: &str, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            acquire_time: Some(MicroTime(now)),
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(lease_seconds()),
            lease_transitions: Some(0),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

fn lease_seconds() -> i32 {
    LEASE_TIME.as_secs().try_into().unwrap_or(i32::MAX)
}

fn is_held_by(spec: &LeaseSpec, identity: &str) -> bool {
    spec.holder_identity.as_deref() == Some(identity)
}

fn complain(error: &CallError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(
        event = "leader",
        error,
        "the Lease could not be read or written"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::testing::FakeApi;

    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/op";

    /// Counts the terms that run now, over all replicas of a test.
    #[derive(Clone, Default)]
    struct Leaders(Arc<AtomicU32>);

    struct Term(Leaders);

    impl Drop for Term {
        fn drop(&mut self) {
            self.0.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Leaders {
        async fn lead(self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            let _term = Term(self);
            std::future::pending::<()>().await;
        }

        fn now(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn replica(
        api: &FakeApi,
        identity: &str,
        leaders: &Leaders,
    ) -> (Drain, tokio::task::JoinHandle<()>) {
        let election = Election::new(api.client(), "system", "op", identity, Metrics::default());
        let (drain, leaders) = (Drain::new(), leaders.clone());
        let run = election.run(drain.clone(), move || leaders.clone().lead());
        (drain, tokio::spawn(run))
    }

    fn holder(api: &FakeApi) -> String {
        let lease = api.get(LEASE).unwrap();
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_leads_and_the_other_follows_when_it_leaves() {
        let (api, leaders) = (FakeApi::new(), Leaders::default());
        let (drain, task) = replica(&api, "a", &leaders);
        sleep(Duration::from_secs(1)).await;
        let _b = replica(&api, "b", &leaders);
        sleep(Duration::from_secs(60)).await;
        assert_eq!((leaders.now(), holder(&api).as_str()), (1, "a"));

        drain.begin();
        task.await.unwrap();
        sleep(PACE * 2).await;
        assert_eq!((leaders.now(), holder(&api).as_str()), (1, "b"));
        assert_eq!(api.get(LEASE).unwrap()["spec"]["leaseTransitions"], 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_stops_before_another_starts() {
        let (cut, leaders) = (FakeApi::new(), Leaders::default());
        let _a = replica(&cut, "a", &leaders);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(leaders.now(), 1);

        // From here on `a` gets no answers; `b` sees the same Lease.
        let reachable = cut.fork();
        cut.hang();
        let _b = replica(&reachable, "b", &leaders);
        let mut most = 0;
        for _ in 0..400 {
            sleep(Duration::from_millis(100)).await;
            most = most.max(leaders.now());
        }
        assert_eq!(
            (most, leaders.now(), holder(&reachable).as_str()),
            (1, 1, "b")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_taken_away_is_not_held_on_to() {
        let (api, leaders) = (FakeApi::new(), Leaders::default());
        let _a = replica(&api, "a", &leaders);
        sleep(Duration::from_secs(5)).await;
        api.change(LEASE, |lease| lease["spec"]["holderIdentity"] = "b".into());
        sleep(PACE * 2).await;
        assert_eq!(leaders.now(), 0);
        sleep(LEASE_TIME * 2).await;
        assert_eq!(leaders.now(), 1);
    }

    #[test]
    fn a_lease_that_others_renew_is_waited_for() {
        let now = Timestamp::UNIX_EPOCH;
        let lease = first("op", "a", now);
        let almost = LEASE_TIME - Duration::from_millis(1);
        assert_eq!(step(Some(lease.clone()), "b", almost, now), Step::Wait);
        assert!(matches!(
            step(Some(lease.clone()), "b", LEASE_TIME, now),
            Step::Hold(_)
        ));
        assert!(matches!(
            step(Some(lease), "a", Duration::ZERO, now),
            Step::Hold(_)
        ));
        let vacant = step(Some(Lease::default()), "b", Duration::ZERO, now);
        assert!(matches!(vacant, Step::Hold(_)));
        assert_eq!(step(None, "b", Duration::ZERO, now), Step::Create);
    }
}
