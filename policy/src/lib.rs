//! fairway-policy.
