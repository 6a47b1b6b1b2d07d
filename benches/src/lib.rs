//! What the benchmarks and the simulation share. Nothing of it is published.

pub mod simulated;
