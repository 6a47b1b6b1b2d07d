//! The integration tests of pgw-http: one binary.

#[cfg(feature = "router")]
mod access;
#[cfg(feature = "router")]
mod audit;
#[cfg(feature = "router")]
mod bad_input;
#[cfg(feature = "router")]
mod browsers;
#[cfg(all(feature = "router", feature = "testing"))]
mod canaries;
#[cfg(feature = "router")]
mod card_numbers;
#[cfg(feature = "router")]
mod contract;
#[cfg(feature = "transport")]
mod customers;
mod dns;
#[cfg(feature = "router")]
mod dropped;
#[cfg(feature = "transport")]
mod egress;
#[cfg(feature = "router")]
mod endpoints;
#[cfg(feature = "router")]
mod events;
#[cfg(feature = "router")]
mod happy;
#[cfg(feature = "router")]
mod harness;
#[cfg(feature = "testing")]
mod hostile;
#[cfg(feature = "router")]
mod idempotency;
#[cfg(feature = "router")]
mod idempotency_over_time;
#[cfg(feature = "router")]
mod invalid_keys;
#[cfg(feature = "router")]
mod limits;
#[cfg(feature = "router")]
mod logging;
#[cfg(feature = "router")]
mod matrix;
#[cfg(feature = "router")]
mod mounting;
#[cfg(feature = "router")]
mod once;
#[cfg(feature = "router")]
mod ops;
#[cfg(feature = "router")]
mod permissions;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "router")]
mod telemetry;
#[cfg(feature = "transport")]
mod transport;
