//! What pgw-core promises, tested from the outside.

mod confirmations;
mod egress;
mod found;
mod javascript;
mod outcomes;
mod plans;
mod promises;
mod replays;
mod representation;
mod rotation;
mod sampling;
mod script;
mod world;
mod write_aheads;
