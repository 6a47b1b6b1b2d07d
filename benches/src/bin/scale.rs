//! What scale costs: the tables of `docs/scaling.md`.
//!
//! `cargo run -p benches --bin scale` prints them, from `benches/src/scale/measured.json` and the assumptions of `benches/src/scale/model.rs`.
//! `cargo run --release -p benches --bin scale -- --measure [PAYMENTS]` runs so many payments (20,000) on a private server, with no, one and two
//! endpoints and with partitions, and prints what to put into `measured.json`.

use std::error::Error;

use benches::scale::measure::{Run, measure};
use benches::scale::{measured::Measured, tables};
use pgw_storage_postgres::{Engine, Partitions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => {
            for (name, table) in tables::all(&Measured::last()?)? {
                println!("<!-- scale: {name} -->\n{table}<!-- end -->\n");
            }
            Ok(())
        }
        [option, payments @ ..] if option == "--measure" && payments.len() < 2 => {
            let payments = payments.first().map_or(Ok(20_000), |count| count.parse())?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let measured = runtime.block_on(measure(payments, &RUNS))?;
            println!("{}", serde_json::to_string_pretty(&measured)?);
            Ok(())
        }
        _ => Err("there is --measure [PAYMENTS]".into()),
    }
}

const PLAIN: Run = Run { endpoints: 1, partitions: None, engine: Engine::Single };
const RUNS: [Run; 6] = [
    Run { endpoints: 0, ..PLAIN },
    PLAIN,
    Run { endpoints: 2, ..PLAIN },
    Run { partitions: Partitions::new(8), ..PLAIN },
    Run { partitions: Partitions::new(64), ..PLAIN },
    Run { engine: Engine::Distributed, ..PLAIN },
];
