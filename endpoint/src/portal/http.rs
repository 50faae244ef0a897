//! One normal form of an HTTP request, so that the request that was authorized
//! is the request that is sent.
//!
//! hyper is the one parser; what it accepts but two programs may read in two
//! ways is refused here (RFC 9112 section 11.2, RFC 3986 section 6). Headers
//! that only Fairway may set are removed in every spelling.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, Response, Version};
use thiserror::Error;

/// The caller's SPIFFE ID.
pub const PEER: HeaderName = HeaderName::from_static("fairway-peer");
/// The caller's signed attributes, `key=value` pairs percent-encoded and joined by `,`.
pub const PEER_ATTRIBUTES: HeaderName = HeaderName::from_static("fairway-peer-attributes");
/// How the caller was authenticated: `live; issued=UNIX; expires=UNIX`.
pub const PEER_AUTHENTICATION: HeaderName = HeaderName::from_static("fairway-peer-authentication");
/// The machine-readable reason of an answer that Fairway itself gave.
pub const REASON: HeaderName = HeaderName::from_static("fairway-reason");

/// Why a request has no single meaning. `Display` is the text for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ambiguous {
    /// Both `Transfer-Encoding` and `Content-Length`.
    #[error("send either Transfer-Encoding or Content-Length, not both")]
    Framing,
    /// More than one `Content-Length` or `Host`.
    #[error("header {0} may occur once only")]
    Repeated(&'static str),
    /// `%2F`, `%5C`, `%2E` or a backslash in the path.
    #[error("the path must not contain encoded slashes, encoded dots or backslashes")]
    EncodedSeparator,
    /// A `.` or `..` segment.
    #[error("the path must not contain . or .. segments")]
    DotSegment,
    /// `//` in the path.
    #[error("the path must not contain empty segments")]
    EmptySegment,
    /// A control character or a broken percent-encoding in the path.
    #[error("the path is not valid: use percent-encoding with two hexadecimal digits")]
    BadEncoding,
    /// The path does not start with `/` (nor is it `*` of OPTIONS).
    #[error("the request target must be a path")]
    NotAPath,
}

/// Checks that `uri` and `headers` can be read in one way only.
///
/// # Errors
/// The first ambiguity found.
pub fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Ambiguous> {
    if headers.contains_key(header::TRANSFER_ENCODING)
        && headers.contains_key(header::CONTENT_LENGTH)
    {
        return Err(Ambiguous::Framing);
    }
    for (name, text) in [
        (header::CONTENT_LENGTH, "content-length"),
        (header::HOST, "host"),
    ] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Ambiguous::Repeated(text));
        }
    }
    check_path(uri.path())
}

fn check_path(path: &str) -> Result<(), Ambiguous> {
    if path == "*" {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(Ambiguous::NotAPath)?;
    check_encoding(path)?;
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err(Ambiguous::DotSegment),
            // The last one may be empty: "/" and "/a/".
            "" if segments.peek().is_some() => return Err(Ambiguous::EmptySegment),
            _ => {}
        }
    }
    Ok(())
}

fn check_encoding(path: &str) -> Result<(), Ambiguous> {
    let bytes = path.as_bytes();
    for (i, &byte) in bytes.iter().enumerate() {
        if byte == b'\\' {
            return Err(Ambiguous::EncodedSeparator);
        }
        if byte.is_ascii_control() {
            return Err(Ambiguous::BadEncoding);
        }
        if byte != b'%' {
            continue;
        }
        let decoded = path
            .get(i + 1..i + 3)
            .filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or(Ambiguous::BadEncoding)?;
        match decoded {
            b'/' | b'\\' | b'.' => return Err(Ambiguous::EncodedSeparator),
            0 => return Err(Ambiguous::BadEncoding),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what concerns one hop only (RFC 9110 section 7.6.1), including every
/// header that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    let te_trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    for name in [
        "connection",
        "proxy-connection",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-authorization",
        "proxy-authenticate",
    ] {
        headers.remove(name);
    }
    // gRPC will not speak to a server that it cannot tell that it reads trailers.
    if te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a request asks to speak WebSocket from here on (RFC 6455 section
/// 4.1). No other protocol is let through: within `h2c`, for one, there would be
/// further requests that nobody authorizes.
pub(crate) fn wants_websocket<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && asks_to_upgrade(request.headers())
        && names_websocket(request.headers())
        && !request.headers().contains_key(header::CONTENT_LENGTH)
        && !request.headers().contains_key(header::TRANSFER_ENCODING)
}

/// Whether an answer `101` agrees to it.
pub(crate) fn is_websocket<B>(response: &Response<B>) -> bool {
    names_websocket(response.headers())
}

/// Says on the next hop what was said on the last.
pub(crate) fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

fn names_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    match (protocols.next(), protocols.next()) {
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"websocket"),
        (_, _) => false,
    }
}

/// Removes the headers that only Fairway may set, in any spelling that a
/// CGI-like app could take for them (`Fairway_Peer`).
pub fn remove_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().replace('_', "-").starts_with("fairway-"))
        .cloned()
        .collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// Percent-encodes what would end a pair or is no visible ASCII.
pub(crate) fn encode_attributes<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'a'..=b'z'
                | b'A'..=b'Z'
                | b'0'..=b'9'
                | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b'/'
                | b':' => out.push(byte.into()),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
            out
        })
    };
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
        .collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| {
                (
                    k.parse::<HeaderName>().unwrap(),
                    v.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn paths() {
        use Ambiguous::{BadEncoding, DotSegment, EmptySegment, EncodedSeparator, NotAPath};
        for (path, expected) in [
            ("/", Ok(())),
            ("/v1/readings/7", Ok(())),
            ("/v1/readings/", Ok(())),
            ("/a%20b", Ok(())),
            ("/a..b/.c", Ok(())),
            ("*", Ok(())),
            ("", Err(NotAPath)),
            ("v1", Err(NotAPath)),
            ("/v1/../admin", Err(DotSegment)),
            ("/./x", Err(DotSegment)),
            ("/x/..", Err(DotSegment)),
            ("/v1/%2e%2e/admin", Err(EncodedSeparator)),
            ("/v1%2Fadmin", Err(EncodedSeparator)),
            ("/v1%5cadmin", Err(EncodedSeparator)),
            ("/v1\\admin", Err(EncodedSeparator)),
            ("//admin", Err(EmptySegment)),
            ("/v1//admin", Err(EmptySegment)),
            ("/%", Err(BadEncoding)),
            ("/%2", Err(BadEncoding)),
            ("/%zz", Err(BadEncoding)),
            ("/%00", Err(BadEncoding)),
        ] {
            assert_eq!(check_path(path), expected, "{path}");
        }
    }

    #[test]
    fn framing_that_two_programs_read_in_two_ways() {
        let uri = Uri::from_static("/");
        let smuggle = headers(&[("transfer-encoding", "chunked"), ("content-length", "4")]);
        assert_eq!(check(&uri, &smuggle), Err(Ambiguous::Framing));
        let hosts = headers(&[("host", "a"), ("host", "b")]);
        assert_eq!(check(&uri, &hosts), Err(Ambiguous::Repeated("host")));
        let lengths = headers(&[("content-length", "1"), ("content-length", "1")]);
        assert_eq!(
            check(&uri, &lengths),
            Err(Ambiguous::Repeated("content-length"))
        );
    }

    #[test]
    fn spoofed_headers_go_in_every_spelling() {
        let mut map = headers(&[
            ("Fairway-Peer", "spiffe://x"),
            ("fairway_peer", "spiffe://x"),
            ("FAIRWAY-Peer_Attributes", "a=b"),
            ("fairway-anything", "x"),
            ("x-fairway-peer", "kept: it is not ours"),
        ]);
        remove_reserved(&mut map);
        assert_eq!(
            map.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-fairway-peer"]
        );
    }

    #[test]
    fn connection_cannot_name_headers_away_that_are_added_later() {
        let mut map = headers(&[
            ("connection", "fairway-peer, x-secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("keep", "1"),
        ]);
        remove_hop_by_hop(&mut map);
        map.insert(PEER, HeaderValue::from_static("spiffe://real"));
        assert!(map.contains_key(PEER) && map.contains_key("keep") && map.contains_key("te"));
        assert!(!map.contains_key("x-secret") && !map.contains_key("connection"));
    }

    #[test]
    fn websocket_and_nothing_else_is_switched_to() {
        let wants = |method: &str, version, pairs: &[(&str, &str)]| {
            let mut request = Request::builder()
                .method(method)
                .version(version)
                .body(())
                .unwrap();
            *request.headers_mut() = headers(pairs);
            wants_websocket(&request)
        };
        let (get, v11) = ("GET", Version::HTTP_11);
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        assert!(wants(get, v11, &good));
        assert!(!wants("POST", v11, &good));
        assert!(!wants(get, Version::HTTP_10, &good));
        assert!(!wants(get, Version::HTTP_2, &good));
        for bad in [
            [("connection", "upgrade"), ("upgrade", "h2c")],
            [("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            [("connection", "close"), ("upgrade", "websocket")],
            [("upgrade", "websocket"), ("upgrade", "h2c")],
        ] {
            assert!(!wants(get, v11, &bad), "{bad:?}");
        }
        let mut with_body = good.to_vec();
        with_body.push(("content-length", "4"));
        assert!(!wants(get, v11, &with_body));
    }

    #[test]
    fn attributes_cannot_break_out() {
        assert_eq!(
            encode_attributes([("site", "oslo"), ("note", "a,b=c\r\nx")]),
            "site=oslo,note=a%2Cb%3Dc%0D%0Ax"
        );
    }
}
