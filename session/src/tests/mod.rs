//! Two sessions joined in memory: `world` makes identities, `pair` is the
//! network and the clock between them.

mod datagrams;
mod establish;
mod hello;
mod lifetime;
mod model;
mod pair;
mod paths;
mod refuse;
mod renewal;
mod rules;
mod streams;
mod world;

use pair::{End, Pair, now};
use world::{World, address, allow, deny, http_allow};
