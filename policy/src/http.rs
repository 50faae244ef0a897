//! HTTP rules: methods and path patterns, checked when they are made.

use std::fmt;

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

/// A path, exact (`/metrics`) or with everything below it (`/v1/*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(Box<str>);

/// Why a method or path pattern was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a method.
    #[error("a method is upper-case letters, such as GET")]
    Method,
}

impl Method {
    /// Checks a method.
    pub fn new(_text: &str) -> Result<Self, PatternError> {
        todo!()
    }
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PathPattern {
    /// Checks a pattern.
    pub fn new(_text: &str) -> Result<Self, PatternError> {
        todo!()
    }
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
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
    /// Path without query, percent-decoding and dot segments already settled.
    pub path: &'a str,
}
