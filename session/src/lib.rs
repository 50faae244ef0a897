//! fairway-session.
