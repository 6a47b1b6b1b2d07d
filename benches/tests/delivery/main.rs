//! Deliveries over real HTTP, by worker processes on a real PostgreSQL: nothing is lost when receivers fail and workers are killed, and
//! receivers that hang hold up no other.

mod evidence;
mod isolation;
mod loss;
mod sink;
mod stage;
