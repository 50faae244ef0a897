//! Links: frames on sockets.
//!
//! [`LinkReader`] and [`LinkWriter`] are also the relay's link I/O.

mod circuit;
mod control;
mod driver;
mod half_open;
mod io;
mod shared;
#[cfg(test)]
mod tests;

pub(crate) use self::driver::Driver;
#[cfg(test)]
pub(crate) use self::driver::LinkEnd;
pub(crate) use self::half_open::{HalfOpen, HalfOpenLinks};
pub use self::io::{LinkReader, LinkWriter};
pub(crate) use self::shared::{Command, LinkKind, LinkShared, LinkState};
