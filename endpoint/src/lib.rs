//! fairway-endpoint.
