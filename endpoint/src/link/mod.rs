//! Links: frames on sockets.
//!
//! [`LinkReader`] and [`LinkWriter`] are also the relay's link I/O.

mod circuit;
mod control;
mod driver;
mod io;
mod shared;
mod silence;
#[cfg(test)]
mod tests;
mod timers;

pub(crate) use self::driver::Driver;
#[cfg(test)]
pub(crate) use self::driver::LinkEnd;
pub use self::io::{LinkReader, LinkWriter};
pub(crate) use self::shared::{Command, LinkKind, LinkShared, LinkState};
