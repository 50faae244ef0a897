//! fairway-sim.
