//! Knocks at a running webhook receiver, in whatever language it is written: signed requests that it must accept, and forged, stale and
//! malformed ones that it must refuse.
//!
//! `cargo run --example check_receiver -- PROFILE ADDRESS SECRET…`, for instance
//! `cargo run --example check_receiver -- standard 127.0.0.1:3001/webhooks whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD`.
//! Of several secrets each alone must be accepted. A profile `stripe-past` is `stripe` without the timestamps from the future, which
//! most of Stripe's own libraries accept.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use pgw_webhook_client::{SeedSigner, SignedHeaders, StandardSigner, StripeSigner};

/// A request, and what it is there to find out.
struct Knock {
    name: &'static str,
    headers: SignedHeaders,
    body: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Standard,
    Seed,
    Stripe,
}

impl Profile {
    /// Signs with every secret given, where the profile carries more than one signature.
    fn sign(
        self,
        secrets: &[&str],
        id: &str,
        at: Duration,
        body: &[u8],
    ) -> Result<SignedHeaders, Box<dyn Error>> {
        let (first, more) = secrets.split_first().ok_or("no secret")?;
        Ok(match self {
            Self::Standard => {
                let signer = StandardSigner::new(first)?;
                more.iter()
                    .try_fold(signer, |signer, secret| signer.with_secret(secret))?
                    .sign(id, at, body)?
            }
            Self::Stripe => {
                let signer = StripeSigner::new(first)?;
                more.iter()
                    .try_fold(signer, |signer, secret| signer.with_secret(secret))?
                    .sign(id, at, body)?
            }
            Self::Seed => SeedSigner::new(first)?.sign_event(id, "test.ping", at, body)?,
        })
    }

    /// The headers without which nothing can be checked. `seed` does not sign its id, so a receiver need not look at it.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Standard => &["webhook-id", "webhook-timestamp", "webhook-signature"],
            Self::Seed => &["x-webhook-timestamp", "x-webhook-signature"],
            Self::Stripe => &["stripe-signature"],
        }
    }

    fn signature_header(self) -> &'static str {
        match self {
            Self::Standard => "webhook-signature",
            Self::Seed => "x-webhook-signature",
            Self::Stripe => "stripe-signature",
        }
    }
}

/// What must be answered with 2xx: different webhooks, and further attempts of the first.
fn acceptable(
    profile: Profile,
    secrets: &[&str],
    now: Duration,
) -> Result<(Vec<Knock>, Vec<Knock>), Box<dyn Error>> {
    let mut different = Vec::new();
    for (index, secret) in secrets.iter().enumerate() {
        let body = format!("{{\"n\":{index}}}").into_bytes();
        let headers = profile.sign(&[secret], &format!("evt_secret{index}"), now, &body)?;
        different.push(Knock { name: "signed with a secret", headers, body });
    }
    let body = b"{ \"a\" : 1.0, \"b\":\"\\u00e9\\/\",\n \"c\":\"\xc3\xa9\" }".to_vec();
    let headers = profile.sign(secrets, "evt_spelling", now, &body)?;
    different.push(Knock { name: "JSON that no library would write like that", headers, body });
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(64 * 1024)).into_bytes();
    let headers = profile.sign(secrets, "evt_large", now, &body)?;
    different.push(Knock { name: "64 KiB", headers, body });
    if profile != Profile::Seed {
        let body = b"{\"n\":\"rotation\"}".to_vec();
        let headers = profile.sign(&[STRANGER, secrets[0]], "evt_rotation", now, &body)?;
        different.push(Knock { name: "signed with a new secret and the old", headers, body });
    }

    let mut repeated = Vec::new();
    let body = b"{\"n\":0}".to_vec();
    for (name, at) in [("the same once more", now), ("the next attempt", now - SECOND)] {
        let headers = profile.sign(&secrets[..1], "evt_secret0", at, &body)?;
        repeated.push(Knock { name, headers, body: body.clone() });
    }
    if profile != Profile::Seed {
        let (old, new) = match profile {
            Profile::Stripe => (",v1=", ",v0=00,v1="),
            Profile::Standard | Profile::Seed => ("v1,", "v1a,AAAA v1,"),
        };
        let headers = profile.sign(&secrets[..1], "evt_secret0", now, &body)?;
        let headers = with(&headers, profile.signature_header(), |value| value.replace(old, new));
        repeated.push(Knock { name: "a signature of another version too", headers, body });
    }
    Ok((different, repeated))
}

/// What must be answered with 4xx.
fn unacceptable(
    profile: Profile,
    secrets: &[&str],
    now: Duration,
    takes_future: bool,
) -> Result<Vec<Knock>, Box<dyn Error>> {
    let (id, body) = ("evt_refused", b"{\"amount\":1}".to_vec());
    let sign = |at: Duration| profile.sign(&secrets[..1], id, at, &body);
    let good = sign(now)?;
    let header = profile.signature_header();
    let mut headers_only = vec![
        ("signed with another secret", profile.sign(&[STRANGER], id, now, &body)?),
        ("no header at all", Vec::new()),
        ("five minutes and a second old", sign(now - WINDOW - SECOND)?),
        ("a signature cut short", with(&good, header, |value| value[..value.len() - 1].to_owned())),
        ("an empty signature", with(&good, header, |_| "v1,".to_owned())),
        ("a signature of something else", with(&good, header, flipped)),
    ];
    for name in profile.required() {
        let headers = good.iter().filter(|(given, _)| given != name).cloned().collect();
        headers_only.push(("a header is missing", headers));
    }
    if !takes_future {
        // Some seconds more than the window, so that it is still outside when the request arrives.
        headers_only.push(("from the future", sign(now + WINDOW + 60 * SECOND)?));
        headers_only.push(("milliseconds where seconds are due", sign(now * 1000)?));
    }
    let seconds = now.as_secs();
    for (name, timestamp) in [
        ("a timestamp that was not signed", (seconds - 1).to_string()),
        ("a negative timestamp", format!("-{seconds}")),
        ("a timestamp that is not a number", "yesterday".to_owned()),
        ("an empty timestamp", String::new()),
    ] {
        let headers = match profile {
            Profile::Standard => with(&good, "webhook-timestamp", |_| timestamp),
            Profile::Seed => with(&good, "x-webhook-timestamp", |_| timestamp),
            Profile::Stripe => {
                with(&good, header, |value| value.replace(&seconds.to_string(), &timestamp))
            }
        };
        headers_only.push((name, headers));
    }
    if profile == Profile::Seed {
        headers_only.push(("seconds where milliseconds are due", sign(now / 1000)?));
    } else {
        let renamed = with(&good, header, |value| value.replace("v1", "v2"));
        headers_only.push(("signatures of other versions only", renamed));
    }
    if profile == Profile::Standard {
        headers_only.push(("another id", with(&good, "webhook-id", |_| "evt_other".to_owned())));
    }

    let mut knocks: Vec<Knock> = headers_only
        .into_iter()
        .map(|(name, headers)| Knock { name, headers, body: body.clone() })
        .collect();
    let changed = b"{\"amount\":9}".to_vec();
    knocks.push(Knock { name: "a changed body", headers: good.clone(), body: changed });
    knocks.push(Knock { name: "no body", headers: good, body: Vec::new() });
    Ok(knocks)
}

/// The same headers, one value changed.
fn with(headers: &SignedHeaders, name: &str, change: impl FnOnce(&str) -> String) -> SignedHeaders {
    let mut headers = headers.clone();
    if let Some((_, value)) = headers.iter_mut().find(|(given, _)| *given == name) {
        *value = change(value);
    }
    headers
}

/// A signature of the same form and length, and a good one except for one digit in its middle.
fn flipped(value: &str) -> String {
    let at = value.len() - 20;
    let other = if value.as_bytes()[at] == b'a' { "b" } else { "a" };
    format!("{}{other}{}", &value[..at], &value[at + 1..])
}

/// Sends one request and reads the answer's status; `None` when the connection was closed without one.
fn post(address: &str, knock: &Knock) -> Result<Option<u16>, Box<dyn Error>> {
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let mut request = format!(
        "POST /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n",
        knock.body.len()
    );
    for (name, value) in &knock.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");

    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    // A receiver that has seen enough may answer and close before everything is sent, so a failed write is not the end.
    let sent = stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(&knock.body));
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    match str::from_utf8(answer.get(9..12).unwrap_or_default())?.parse() {
        Ok(status) => Ok(Some(status)),
        Err(_) if sent.is_err() || read.is_err() || answer.is_empty() => Ok(None),
        Err(_) => Err("the answer is not HTTP".into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a program reads the clock where it needs it")]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, address, secrets @ ..] = arguments.as_slice() else {
        return Err("usage: check_receiver standard|seed|stripe|stripe-past ADDRESS SECRET…".into());
    };
    let takes_future = profile == "stripe-past";
    let profile = match profile.as_str() {
        "standard" => Profile::Standard,
        "seed" => Profile::Seed,
        "stripe" | "stripe-past" => Profile::Stripe,
        other => return Err(format!("there is no profile {other}").into()),
    };
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();

    let mut failures = 0;
    let mut check = |knock: &Knock, is_expected: &dyn Fn(Option<u16>) -> bool| {
        let status = post(address, knock)?;
        if !is_expected(status) {
            failures += 1;
            let answer = status.map_or("no answer".to_owned(), |status| status.to_string());
            println!("answered wrongly: {}: {answer}", knock.name);
        }
        Ok::<(), Box<dyn Error>>(())
    };

    let (different, repeated) = acceptable(profile, &secrets, now())?;
    for knock in different.iter().chain(&repeated) {
        check(knock, &|status| matches!(status, Some(200..=299)))?;
    }
    let refused = unacceptable(profile, &secrets, now(), takes_future)?;
    for knock in &refused {
        check(knock, &|status| matches!(status, Some(400..=499)))?;
    }
    let body = vec![b' '; BODY_BYTES_TOO_MANY];
    let headers = profile.sign(&secrets, "evt_huge", now(), &body)?;
    let huge = Knock { name: "a body without end", headers, body };
    check(&huge, &|status| matches!(status, None | Some(400..=499)))?;

    if failures > 0 {
        return Err(format!("{failures} request(s) were answered wrongly").into());
    }
    println!(
        "{} different webhooks and {} repeated ones accepted, {} requests refused",
        different.len(),
        repeated.len(),
        refused.len() + 1
    );
    Ok(())
}

/// A secret that no receiver was given.
const STRANGER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How far a timestamp may be from now.
const WINDOW: Duration = pgw_webhook_client::TOLERANCE_DEFAULT;

const SECOND: Duration = Duration::from_secs(1);

/// How long an answer may take: as long as a sender waits by default.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How much of an answer is read: its first line is all that matters.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// More than a receiver should be ready to hold for anybody who connects.
const BODY_BYTES_TOO_MANY: usize = 4 * 1024 * 1024;
