//! Logs to standard error, and spans over OTLP when an endpoint is given.
//! Without one nothing leaves the process.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Runtime;
use tracing::Subscriber;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

/// How long [`Telemetry::shutdown`] tries to send the last spans.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// One line of text, for people.
    Text,
}

/// What is logged and where spans go. Flatten it into a binary's options.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// How log lines look.
    #[arg(
        long = "log-format",
        env = "FAIRWAY_LOG_FORMAT",
        default_value = "json",
        value_enum
    )]
    pub log_format: LogFormat,
    /// What is logged, e.g. `info` or `warn,fairway_relay=debug`.
    #[arg(long = "log-level", env = "FAIRWAY_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Send spans by OTLP over gRPC to this address, e.g. `http://collector:4317`.
    #[arg(long = "otlp-endpoint", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// Why logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `--log-level` is not understood.
    #[error("--log-level is not understood; use e.g. `info` or `warn,fairway_relay=debug`")]
    Level(#[source] ParseError),
    /// `--otlp-endpoint` asks for TLS, which this build does not have.
    #[error(
        "--otlp-endpoint {0} is not supported; use an http:// address, of a collector in the same pod or node"
    )]
    OtlpScheme(String),
    /// The exporter refused its settings.
    #[error("--otlp-endpoint cannot be used")]
    Otlp(#[source] ExporterBuildError),
    /// The thread that exports spans could not be started.
    #[error("the export of spans cannot be started")]
    Thread(#[source] io::Error),
    /// Something else in this process has set up logging before.
    #[error("logging is already set up in this process")]
    Twice(#[source] TryInitError),
}

/// Keeps the exporter of spans alive. End it with
/// [`shutdown`](Self::shutdown), or the last spans may be lost.
#[derive(Debug)]
#[must_use = "dropping it ends the export of spans"]
pub struct Telemetry {
    exporting: Option<Exporting>,
}

/// The export of spans, on a thread of its own: the last ones are sent while
/// the process's own runtime, which may have one thread only, waits.
#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    runtime: Option<Runtime>,
}

impl LogArgs {
    /// Sets up logs and traces for the whole process. Call it once, in `main`,
    /// inside the tokio runtime. `service` is the name that spans carry.
    ///
    /// # Errors
    ///
    /// An option is not understood, or it was called before.
    pub fn init(&self, service: &'static str) -> Result<Telemetry, LogError> {
        let filter: Targets = self.log_level.parse().map_err(LogError::Level)?;
        let exporting = match self.otlp_endpoint.as_deref() {
            Some(endpoint) if !endpoint.is_empty() => Some(Exporting::start(service, endpoint)?),
            Some(_) | None => None,
        };
        let spans = exporting.as_ref().map(|exporting| {
            tracing_opentelemetry::layer().with_tracer(exporting.provider.tracer("fairway"))
        });
        Registry::default()
            .with(lines(self.log_format))
            .with(spans)
            .with(filter)
            .try_init()
            .map_err(LogError::Twice)?;
        // `traceparent` is carried through even when nothing is exported.
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Telemetry { exporting })
    }
}

impl Telemetry {
    /// Sends the spans that are waiting, bounded by a few seconds.
    pub fn shutdown(self) {
        if let Some(exporting) = &self.exporting
            && let Err(error) = exporting.provider.shutdown_with_timeout(FLUSH_LIMIT)
        {
            tracing::warn!(event = "otlp", %error, "the last spans were not sent");
        }
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // Not by dropping it, which may not be done inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    }
}

impl Exporting {
    fn start(service: &'static str, endpoint: &str) -> Result<Self, LogError> {
        if !endpoint.starts_with("http://") {
            return Err(LogError::OtlpScheme(endpoint.to_owned()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .map_err(LogError::Thread)?;
        let exporter = {
            // The connection lives on that runtime.
            let _inside = runtime.enter();
            opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .map_err(LogError::Otlp)?
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name(service).build())
            .build();
        Ok(Self {
            provider,
            runtime: Some(runtime),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_understood_are_refused_with_what_to_write() {
        let args = |level: &str, endpoint: Option<&str>| LogArgs {
            log_format: LogFormat::Json,
            log_level: level.to_owned(),
            otlp_endpoint: endpoint.map(str::to_owned),
        };
        let refused = args("fairway=loud", None).init("test").unwrap_err();
        assert!(refused.to_string().contains("--log-level"), "{refused}");
        let refused = args("info", Some("https://collector:4317")).init("test");
        assert!(matches!(refused, Err(LogError::OtlpScheme(_))));
    }
}
