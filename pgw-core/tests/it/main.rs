//! What pgw-core promises, tested from the outside.

mod access;
mod audit;
mod confirmations;
mod egress;
mod endpoints;
mod found;
mod javascript;
mod once;
mod ordering;
mod outcomes;
mod plans;
mod privacy;
mod promises;
mod replays;
mod representation;
mod rotation;
mod sampling;
mod script;
mod sealing;
mod shield;
mod world;
mod write_aheads;
