//! fairway-cli.
