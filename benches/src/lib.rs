//! What the benchmarks and the simulation share. Nothing of it is published.

pub mod pgbench;
pub mod plot;
pub mod simulated;
pub mod time;
