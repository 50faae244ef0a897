//! Links: frames on sockets.
//!
//! [`LinkReader`] and [`LinkWriter`] are also the relay's link I/O.

mod circuit;
mod control;
mod driver;
mod io;
mod shared;
#[cfg(test)]
mod tests;

pub(crate) use self::driver::Driver;
#[cfg(test)]
pub(crate) use self::driver::LinkEnd;
pub use self::io::{LinkReader, LinkWriter};
pub(crate) use self::shared::{Command, LinkKind, LinkShared, LinkState};
