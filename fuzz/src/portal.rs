//! What a device's file, a pod's annotation and an HTTP client may say.

use std::io::Write as _;

use fairway_device::Config;
use fairway_endpoint::portal::InletSpec;
use fairway_endpoint::portal::http::{check, remove_hop_by_hop, remove_reserved};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// A device's configuration file: the proxy of one that is read is on loopback,
/// and its inlets can be used.
pub(crate) fn device_config(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    if let Ok(config) = Config::read(file.path()) {
        assert!(config.proxy.is_none_or(|proxy| proxy.ip().is_loopback()));
        assert_eq!(config.inlet_specs().unwrap().len(), config.inlets.len());
    }
}

/// The inlets of an annotation, as the sidecar gets them.
pub(crate) fn inlets(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    for entry in text.split(',') {
        if let Ok(inlet) = entry.parse::<InletSpec>() {
            assert!(inlet.listen.ip().is_loopback() && inlet.listen.port() != 0);
            let written = format!("{}={}", inlet.listen.port(), inlet.to);
            assert_eq!(written.parse::<InletSpec>().unwrap(), inlet);
        }
    }
}

/// The head of a request: one that passes can be read in one way only, and
/// nothing of the caller's is left under names that are ours.
pub(crate) fn http_request(data: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(_)) = request.parse(data) else {
        return;
    };
    let Some(Ok(uri)) = request.path.map(str::parse::<Uri>) else {
        return;
    };
    let mut map = HeaderMap::new();
    for header in request.headers.iter() {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(header.name.as_bytes()),
            HeaderValue::from_bytes(header.value),
        ) {
            map.append(name, value);
        }
    }
    if check(&uri, &map).is_ok() {
        assert!(!uri.path().split('/').any(|segment| segment == ".."));
        assert!(!uri.path().contains(['\\', '\0']));
        assert!(map.get_all("host").iter().count() <= 1);
        let both = map.contains_key("content-length") && map.contains_key("transfer-encoding");
        assert!(!both);
    }
    remove_hop_by_hop(&mut map);
    remove_reserved(&mut map);
    assert!(!map.contains_key("connection"));
    let ours = |name: &HeaderName| name.as_str().replace('_', "-").starts_with("fairway-");
    assert!(!map.keys().any(ours));
}
