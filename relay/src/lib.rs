//! fairway-relay.
