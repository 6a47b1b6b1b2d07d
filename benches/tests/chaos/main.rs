//! Four worker processes over PostgreSQL and Redis, under load, while what they run on is taken away: no event is lost, and each key is
//! charged once.
//!
//! Each scenario starts its own servers. They run one at a time, because each takes all there is. `PGW_ROUNDS=20` does as many rounds of each.

mod bank;
mod clients;
mod evidence;
mod failover;
mod receiver;
mod redis;
mod stage;

use tokio::sync::{Mutex, MutexGuard};

/// The turn of one scenario.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// How many rounds are asked for.
fn rounds(in_ci: u32) -> u32 {
    std::env::var("PGW_ROUNDS").map_or(in_ci, |rounds| match rounds.parse() {
        Ok(rounds) if rounds > 0 => rounds,
        _ => panic!("PGW_ROUNDS is a number like 20, not {rounds:?}"),
    })
}
