//! fairway-device.
