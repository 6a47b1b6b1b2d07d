//! What scale costs: what a payment is to PostgreSQL, measured, and what that comes to at rates that nobody measures on one machine.
//!
//! `measure` runs payments on a private server and writes down what they left behind; `measured` is what it wrote the last time; `model` multiplies;
//! `tables` prints. `docs/scaling.md` holds what is printed.

pub mod measure;
pub mod measured;
pub mod model;
pub mod tables;
