//! fairway-control.
