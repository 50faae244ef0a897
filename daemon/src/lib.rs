//! fairway-daemon.
