//! fairway-authority.
