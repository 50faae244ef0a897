//! Links: frames on sockets.
//!
//! [`LinkReader`] and [`LinkWriter`] are also the relay's link I/O.

mod circuit;
mod control;
mod driver;
mod io;
mod shared;

pub(crate) use self::driver::Driver;
pub use self::io::{LinkReader, LinkWriter};
pub(crate) use self::shared::{Command, LinkKind, LinkShared, LinkState};
