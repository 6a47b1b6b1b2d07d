//! How long one 1 KiB `standard` webhook takes to verify, against the reference implementation and against bare HMAC-SHA256.
//!
//! The three are measured in turn within each round, and ratios are taken round by round, so that a machine that slows down slows all
//! of them. Run it with `cargo run --release -p benches --bin verify`.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use pgw_webhook_client::{StandardSigner, StandardVerifier};
use sha2::Sha256;
use standardwebhooks::Webhook;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let body = vec![b'x'; BODY_BYTES];
    let now = unix_time();
    let signed = StandardSigner::new(SECRET)?.sign(ID, now, &body)?;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("pgw-webhooks"));
    for (name, value) in signed {
        headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value)?);
    }

    let ours = StandardVerifier::new(SECRET)?;
    let theirs = Webhook::new(SECRET)?;
    let key = *b"as many bytes as SECRET.";
    let bytes = [format!("{ID}.{}.", now.as_secs()).as_bytes(), &body].concat();
    // Each of them must do the work it is timed for.
    ours.verify(&headers, &body)?;
    theirs.verify(&body, &headers)?;

    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS + WARM_UP_ROUNDS {
        let measured = Round {
            ours: timed(|| ours.verify(black_box(&headers), black_box(&body)).is_ok()),
            theirs: timed(|| theirs.verify(black_box(&body), black_box(&headers)).is_ok()),
            hmac: timed(|| bare_hmac(black_box(&key), black_box(&bytes))[0]),
        };
        if round >= WARM_UP_ROUNDS {
            rounds.push(measured);
        }
    }
    report(&rounds);
    Ok(())
}

/// Nanoseconds a call in one round.
struct Round {
    ours: f64,
    theirs: f64,
    hmac: f64,
}

fn report(rounds: &[Round]) {
    let median_of = |value: fn(&Round) -> f64| benches::median(rounds.iter().map(value));
    println!(
        "verify one {BODY_BYTES} B `standard` webhook, {ROUNDS} rounds of {CALLS} calls, medians"
    );
    println!("{:<44} {:>10}", "", "ns a call");
    println!("{:<44} {:>10.0}", "pgw-webhook-client, from http::HeaderMap", median_of(|r| r.ours));
    println!("{:<44} {:>10.0}", "standardwebhooks, from http::HeaderMap", median_of(|r| r.theirs));
    println!("{:<44} {:>10.0}", "bare HMAC-SHA256 (hmac + sha2), raw key", median_of(|r| r.hmac));
    println!(
        "result: vs_standardwebhooks={:.2} vs_hmac={:.2}",
        median_of(|r| r.theirs / r.ours),
        median_of(|r| r.ours / r.hmac),
    );
}

fn bare_hmac(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// Nanoseconds a call, over one batch.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn timed<T>(mut call: impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        black_box(call());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// The system clock: both implementations check the message's age against it.
#[expect(clippy::disallowed_methods, reason = "the verifiers that are measured read this clock")]
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ID: &str = "evt_01h455vb4pex5vsknk084sn02q";
const BODY_BYTES: usize = 1024;
const ROUNDS: usize = 301;
const WARM_UP_ROUNDS: usize = 20;
const CALLS: u32 = 1000;
