//! One admission review: from the API server's question to the answer.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use tokio::sync::watch;

use crate::inject::{InjectConfig, Outcome, inject};
use crate::metrics::Metrics;
use crate::trust::Trust;

/// Answers reviews. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Injector {
    template: InjectTemplate,
    trust: watch::Receiver<Trust>,
    metrics: Metrics,
}

/// An [`InjectConfig`] that waits for its root hash.
#[derive(Clone, Debug)]
pub struct InjectTemplate(InjectConfig);

impl InjectTemplate {
    /// Takes all of a configuration but its root hash.
    pub fn new(config: InjectConfig) -> Self {
        Self(config)
    }

    fn with_root_hash(&self, root_hash: String) -> InjectConfig {
        InjectConfig {
            root_hash,
            ..self.0.clone()
        }
    }
}

impl Injector {
    /// An injector that uses the newest trust that is known.
    pub fn new(template: InjectTemplate, trust: watch::Receiver<Trust>, metrics: Metrics) -> Self {
        Self {
            template,
            trust,
            metrics,
        }
    }

    /// Answers one review. Nothing but the answer comes of it, so that a dry
    /// run is like any other.
    pub fn answer(&self, review: AdmissionReview<DynamicObject>) -> AdmissionReview<DynamicObject> {
        let request: AdmissionRequest<DynamicObject> = match review.try_into() {
            Ok(request) => request,
            Err(error) => {
                self.metrics.admitted("refused", "not-a-review");
                return AdmissionResponse::invalid(error).into_review();
            }
        };
        self.decide(&request).into_review()
    }

    fn decide(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        let Some(object) = &request.object else {
            return self.refused(request, response, "not-a-pod", "there is no object");
        };
        let root_hash = match &*self.trust.borrow() {
            Trust::Known(root_hash) => root_hash.clone(),
            Trust::Unknown(error) => {
                let text =
                    format!("{error}. The pod asked for a sidecar by the label fairway.dev/inject");
                return self.refused(request, response, "no-trust", &text);
            }
        };
        let pod = match serde_json::to_value(object) {
            Ok(pod) => pod,
            Err(error) => return self.refused(request, response, "not-a-pod", &error.to_string()),
        };
        match inject(&pod, &self.template.with_root_hash(root_hash)) {
            Outcome::Inject(patch) => {
                self.admitted(request, "injected", "");
                let invalid = response.clone();
                response.with_patch(patch).unwrap_or_else(|error| {
                    self.refused(request, invalid, "no-patch", &error.to_string())
                })
            }
            Outcome::Skip(reason) => {
                self.admitted(request, "skipped", reason.word());
                let warning = format!("fairway: no sidecar was injected: {reason}");
                let mut response = response;
                response.warnings = reason.surprises().then_some(vec![warning]);
                response
            }
            Outcome::Refuse(refusal) => {
                self.refused(request, response, refusal.word(), &refusal.to_string())
            }
        }
    }

    fn refused(
        &self,
        request: &AdmissionRequest<DynamicObject>,
        response: AdmissionResponse,
        reason: &'static str,
        text: &str,
    ) -> AdmissionResponse {
        self.admitted(request, "refused", reason);
        let mut response = response.deny(format!("fairway: {reason}: {text}"));
        response.result.code = 403;
        response
    }

    fn admitted(
        &self,
        request: &AdmissionRequest<DynamicObject>,
        outcome: &'static str,
        reason: &'static str,
    ) {
        self.metrics.admitted(outcome, reason);
        tracing::info!(
            event = "admission",
            namespace = request.namespace.as_deref().unwrap_or_default(),
            name = pod_name(request),
            dry_run = request.dry_run,
            outcome,
            reason,
        );
    }
}

/// A pod that a controller makes has no name yet, but the beginning of one.
fn pod_name(request: &AdmissionRequest<DynamicObject>) -> &str {
    let metadata = request.object.as_ref().map(|object| &object.metadata);
    let names = metadata.and_then(|m| m.name.as_deref().or(m.generate_name.as_deref()));
    names.unwrap_or(&request.name)
}
