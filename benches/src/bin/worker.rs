//! A worker process of the tests: see `benches::worker`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    benches::worker::run(std::env::args().skip(1))
}
