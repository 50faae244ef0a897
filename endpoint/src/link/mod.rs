//! Links: frames on sockets.
//!
//! [`FrameReader`] and [`FrameWriter`] are also the relay's link I/O.

mod io;

pub use self::io::{Frame, FrameReader, FrameTooLong, FrameWriter, put_header};
