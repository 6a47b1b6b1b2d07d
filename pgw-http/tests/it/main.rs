//! The integration tests of pgw-http: one binary.

#[cfg(feature = "router")]
mod bad_input;
#[cfg(feature = "transport")]
mod dns;
#[cfg(feature = "router")]
mod dropped;
#[cfg(feature = "transport")]
mod egress;
#[cfg(feature = "router")]
mod endpoints;
#[cfg(feature = "router")]
mod happy;
#[cfg(feature = "router")]
mod harness;
#[cfg(feature = "testing")]
mod hostile;
#[cfg(feature = "router")]
mod idempotency;
#[cfg(feature = "router")]
mod mounting;
#[cfg(feature = "router")]
mod permissions;
#[cfg(feature = "transport")]
mod transport;
