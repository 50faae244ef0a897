//! fairway-sidecar.
