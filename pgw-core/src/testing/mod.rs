//! Testing: what proves a backend right, and what a host tests its own code with. Behind the feature `testing`, never in a
//! production build.

pub mod clock;
pub mod conformance;
pub mod crash;
pub mod faults;
pub mod invariants;
pub mod keys;
pub mod mutants;
pub mod person;
pub mod random;
pub mod sample;
pub mod seeded;
pub mod simulation;
pub mod transport;
