//! W3C trace context: taken from a request's headers, put into those of the
//! request that goes on. Without an exporter the headers pass untouched.

use ::http::HeaderMap;
use ::http::header::{HeaderName, HeaderValue};
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `00-` + 32 + `-` + 16 + `-` + 2 (W3C Trace Context, section 3.2.2).
const TRACEPARENT_LEN: usize = 55;

/// Makes `span` a child of the trace in `headers`.
pub(crate) fn continue_from(span: &Span, headers: &HeaderMap) {
    let parent =
        global::get_text_map_propagator(|propagator| propagator.extract(&FromHeaders(headers)));
    // Fails only where no exporter is set up, and then there is no trace to continue.
    let _ = span.set_parent(parent);
}

/// Puts `span` into `headers`, when it is exported.
pub(crate) fn hand_on(span: &Span, headers: &mut HeaderMap) {
    let context = span.context();
    if context.span().span_context().is_valid() {
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&context, &mut IntoHeaders(headers))
        });
    }
}

/// The `traceparent` for a stream's OPEN; nothing that is not one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let well_formed =
        value.len() == TRACEPARENT_LEN && value.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    well_formed.then(|| value.to_owned())
}

struct FromHeaders<'a>(&'a HeaderMap);

impl Extractor for FromHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct IntoHeaders<'a>(&'a mut HeaderMap);

impl Injector for IntoHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_traceparent_is_taken() {
        let mut headers = HeaderMap::new();
        assert_eq!(traceparent(&headers), None);
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(TRACEPARENT, HeaderValue::from_static(good));
        assert_eq!(traceparent(&headers).as_deref(), Some(good));
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-x"));
        assert_eq!(traceparent(&headers), None);
    }
}
