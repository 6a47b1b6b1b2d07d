//! The examples are beside this file, one program each: `cargo run --example quickstart`.
