//! HTTP rules: methods and path patterns, checked when they are made.

use std::borrow::Cow;
use std::fmt;

use crate::decision::DoorMiss;
use crate::limits;
use crate::model::Action;

/// One kind of request: a method from the list and a path from the list; an
/// empty list matches any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRule {
    /// Methods.
    pub methods: Vec<Method>,
    /// Paths.
    pub paths: Vec<PathPattern>,
}

/// An HTTP method in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(Box<str>);

/// A path, exact (`/metrics`) or with everything below it (`/v1/*`, which does
/// not match `/v1` itself). `/*` is every path.
///
/// It is compared with the path of a request percent-decoded once. A server
/// may well treat other paths alike (`/a;b` as `/a`, `/A` as `/a`): to name
/// what is allowed is safer than to name what is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(Box<str>);

/// Why a method or path pattern was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a method.
    #[error(
        "a method is at most {} upper-case letters and '-', such as GET",
        limits::METHOD_LEN
    )]
    Method,
    /// Not the beginning of a path.
    #[error("a path begins with '/', such as /metrics or /v1/*")]
    NoSlash,
    /// Longer than the bound.
    #[error("a path may have at most {} bytes", limits::PATH_LEN)]
    TooLong,
    /// `*` somewhere else than alone after the last slash.
    #[error("'*' can only stand alone after the last '/', such as /v1/*")]
    Wildcard,
    /// A character that has no place in a path.
    #[error(
        "a path is written without query, percent-encoding, '\\', space or control characters; found {0:?}"
    )]
    Character(char),
    /// `//`, `/./` or `/../`.
    #[error("a path has no empty, '.' or '..' segments")]
    Segment,
}

impl Method {
    /// Checks a method.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let good = |b: u8| b.is_ascii_uppercase() || b == b'-';
        let len = 1..=limits::METHOD_LEN;
        if !len.contains(&text.len()) || !text.bytes().all(good) {
            return Err(PatternError::Method);
        }
        Ok(Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PathPattern {
    /// Checks a pattern.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let path = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        if text.len() > limits::PATH_LEN {
            return Err(PatternError::TooLong);
        }
        let path = match path.strip_suffix('*') {
            Some(head) if head.is_empty() || head.ends_with('/') => head,
            Some(_) => return Err(PatternError::Wildcard),
            None => path,
        };
        if path.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let bad = |c: char| c.is_control() || c.is_whitespace() || "?#%\\".contains(c);
        if let Some(found) = path.chars().find(|&c| bad(c)) {
            return Err(PatternError::Character(found));
        }
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            // Only the last one may be empty: "/" and "/a/".
            let empty = segment.is_empty() && segments.peek().is_some();
            if empty || segment == "." || segment == ".." {
                return Err(PatternError::Segment);
            }
        }
        Ok(Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern covers a decoded path.
    fn covers(&self, decoded: &[u8]) -> bool {
        match self.0.strip_suffix('*') {
            Some(head) => decoded.starts_with(head.as_bytes()),
            None => decoded == self.0.as_bytes(),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request in normal form: what is authorized is what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Path as sent, without the query. Who asks has refused what two programs
    /// could read in two ways (dot segments, encoded slashes); what slips
    /// through is seen here as unknown, which never opens a door.
    pub path: &'a str,
}

/// Whether one of `rules` covers `request`, for a policy of `action`. No rules
/// at all cover every request.
pub(crate) fn covers(rules: &[HttpRule], request: &HttpRequest<'_>, action: Action) -> bool {
    let decoded = decode(request.path);
    if rules.is_empty() {
        return decoded.is_some() || action == Action::Deny;
    }
    rules.iter().any(|rule| {
        covers_path(rule, decoded.as_deref(), action) && covers_method(rule, request, action)
    })
}

/// What `rules`, which do not cover `request`, lack to do so.
pub(crate) fn miss(rules: &[HttpRule], request: &HttpRequest<'_>, action: Action) -> DoorMiss {
    let decoded = decode(request.path);
    let path = |rule: &HttpRule| covers_path(rule, decoded.as_deref(), action);
    if rules.iter().any(path) {
        DoorMiss::Method {
            asked: shortened(request.method),
        }
    } else {
        DoorMiss::Path {
            asked: shortened(request.path),
        }
    }
}

/// `decoded` is `None` for an ambiguous path: an Allow never covers it, a Deny
/// always does.
fn covers_path(rule: &HttpRule, decoded: Option<&[u8]>, action: Action) -> bool {
    match decoded {
        Some(path) => {
            rule.paths.is_empty() || rule.paths.iter().any(|pattern| pattern.covers(path))
        }
        None => action == Action::Deny,
    }
}

/// Some servers take "post" for POST, so a Deny does, too.
fn covers_method(rule: &HttpRule, request: &HttpRequest<'_>, action: Action) -> bool {
    let same = |method: &Method| match action {
        Action::Allow => method.as_str() == request.method,
        Action::Deny => method.as_str().eq_ignore_ascii_case(request.method),
    };
    rule.methods.is_empty() || rule.methods.iter().any(same)
}

/// Decodes percent-encoding once; `None` if the path is ambiguous: a broken
/// encoding, an encoded or literal backslash, an encoded slash or dot, NUL, a
/// dot segment.
fn decode(path: &str) -> Option<Cow<'_, [u8]>> {
    let decoded = if path.contains('%') {
        Cow::Owned(decode_percent(path.as_bytes())?)
    } else {
        Cow::Borrowed(path.as_bytes())
    };
    let dots = |segment: &[u8]| segment == b"." || segment == b"..";
    let ambiguous = decoded.iter().any(|byte| matches!(byte, b'\\' | 0))
        || decoded.split(|&b| b == b'/').any(dots);
    if ambiguous { None } else { Some(decoded) }
}

fn decode_percent(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(rest.len());
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        rest = tail;
        let byte = (hex(*high)? << 4) | hex(*low)?;
        if matches!(byte, b'/' | b'.') {
            return None;
        }
        decoded.push(byte);
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|n| u8::try_from(n).ok())
}

/// What a caller sent, short enough for a log line.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(limits::SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn methods() {
        for good in ["GET", "M-SEARCH", "VERSION-CONTROL"] {
            assert_eq!(Method::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "get", "GET ", "*", "G3T", &"X".repeat(25)] {
            assert_eq!(Method::new(bad), Err(PatternError::Method), "{bad:?}");
        }
    }

    #[test]
    fn patterns() {
        for good in ["/", "/*", "/metrics", "/v1/*", "/a/", "/a..b/.c", "/straße"] {
            assert_eq!(PathPattern::new(good).unwrap().as_str(), good);
        }
        for (bad, want) in [
            ("", PatternError::NoSlash),
            ("metrics", PatternError::NoSlash),
            ("*", PatternError::NoSlash),
            ("/v1*", PatternError::Wildcard),
            ("/*/x", PatternError::Wildcard),
            ("/**", PatternError::Wildcard),
            ("/a?b", PatternError::Character('?')),
            ("/a%20b", PatternError::Character('%')),
            ("/a b", PatternError::Character(' ')),
            ("/a\\b", PatternError::Character('\\')),
            ("/a\nb", PatternError::Character('\n')),
            ("//a", PatternError::Segment),
            ("/a//b", PatternError::Segment),
            ("/a//*", PatternError::Segment),
            ("/./a", PatternError::Segment),
            ("/a/..", PatternError::Segment),
            ("/../*", PatternError::Segment),
            (&"/x".repeat(129), PatternError::TooLong),
        ] {
            assert_eq!(PathPattern::new(bad), Err(want), "{bad:?}");
        }
    }

    /// `pattern, path => (an Allow covers it, a Deny covers it)`
    #[test]
    fn what_a_pattern_covers() {
        for (pattern, path, allow, deny) in [
            ("/metrics", "/metrics", true, true),
            ("/metrics", "/metrics/", false, false),
            ("/metrics", "/Metrics", false, false),
            ("/v1/*", "/v1/a", true, true),
            ("/v1/*", "/v1/a/b", true, true),
            ("/v1/*", "/v1/", true, true),
            ("/v1/*", "/v1", false, false),
            ("/v1/*", "/v12", false, false),
            ("/*", "/", true, true),
            ("/*", "*", false, false),
            ("/admin", "/%61dmin", true, true),
            ("/admin", "/%2561dmin", false, false),
            ("/straße", "/stra%C3%9Fe", true, true),
            // Ambiguous: never allowed, always denied.
            ("/v1/*", "/v1/../admin", false, true),
            ("/v1/*", "/v1/%2e%2e/admin", false, true),
            ("/v1/*", "/v1%2Fa", false, true),
            ("/v1/*", "/v1/\\a", false, true),
            ("/v1/*", "/v1/%", false, true),
            ("/v1/*", "/v1/%4", false, true),
            ("/v1/*", "/v1/%zz", false, true),
            ("/v1/*", "/v1/%00", false, true),
        ] {
            let paths = vec![PathPattern::new(pattern).unwrap()];
            let rules = [HttpRule {
                methods: vec![],
                paths,
            }];
            let request = HttpRequest {
                method: "GET",
                path,
            };
            for (action, want) in [(Action::Allow, allow), (Action::Deny, deny)] {
                let matches = covers(&rules, &request, action);
                assert_eq!(matches, want, "{pattern} {path} {action:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_path_is_survived(pattern in "/[a-z/.*%]{0,8}", path in "\\PC{0,40}") {
            if let Ok(pattern) = PathPattern::new(&pattern) {
                let rules = [HttpRule { methods: vec![], paths: vec![pattern] }];
                let request = HttpRequest { method: "GET", path: &path };
                if !covers(&rules, &request, Action::Allow) {
                    let _ = miss(&rules, &request, Action::Allow);
                }
            }
        }

        #[test]
        fn encoding_a_path_changes_nothing(path in "/[a-z]{1,8}") {
            let encoded: String =
                path.bytes().map(|b| match b { b'/' => "/".into(), b => format!("%{b:02x}") }).collect();
            let rules = [HttpRule { methods: vec![], paths: vec![PathPattern::new(&path).unwrap()] }];
            let request = HttpRequest { method: "GET", path: &encoded };
            prop_assert!(covers(&rules, &request, Action::Allow));
        }
    }
}
