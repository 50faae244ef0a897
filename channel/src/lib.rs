//! fairway-channel.
