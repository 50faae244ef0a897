//! A relay, as far as an endpoint sees it.
