//! fairway-identity.
