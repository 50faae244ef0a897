//! fairway-crds.
