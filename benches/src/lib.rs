//! What the benchmarks and the simulation share. Nothing of it is published.

pub mod bank;
pub mod baseline;
pub mod command;
pub mod load;
pub mod message;
pub mod node;
pub mod pgbench;
pub mod plot;
pub mod scale;
pub mod server;
pub mod simulated;
pub mod sink;
pub mod stage;
pub mod time;
pub mod worker;
pub mod workers;

/// What `pgw` has: a node is to be measured as it is served.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The middle one of some values, the higher of two.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
