//! The operator of Fairway.

pub mod inject;
pub mod limits;
