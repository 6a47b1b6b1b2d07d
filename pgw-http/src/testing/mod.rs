//! Receivers that misbehave, to test a webhook transport and what is built on it. Behind the feature `testing`, never in a
//! production build.
//!
//! Whoever creates an endpoint decides what answers there. A [`WebhookTransport`](pgw_core::webhook::WebhookTransport) has
//! to come back from all of it: in bounded time, with bounded memory, without contacting anybody else, and ready for the
//! next request. [`HostileReceiver`] is a real server on the loopback interface that does one of these things to every
//! request; [`Behaviour::check`] judges what was made of it; [`SlowResolver`] is the name server to match.
//!
//! ```
//! use std::time::Duration;
//!
//! use pgw_core::env::Env;
//! use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
//! use pgw_core::webhook::{WebhookRequest, WebhookTransport as _};
//! use pgw_http::testing::{Behaviour, HostileReceiver};
//! use pgw_http::transport::HttpTransport;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = EgressPolicy::default()
//!     .with_http(HttpScheme::Allowed)
//!     .with_allowed("127.0.0.1/32".parse()?);
//! let transport = HttpTransport::new(Env::system(), policy)?;
//!
//! let receiver = HostileReceiver::start(Behaviour::EndlessBody).await?;
//! let request = WebhookRequest {
//!     url: receiver.url().clone(),
//!     headers: Vec::new(),
//!     body: "{}".into(),
//!     timeout: Duration::from_secs(15),
//! };
//! let answer = transport.send(&request).await;
//! receiver.behaviour().check(&answer)?;
//!
//! receiver.hung_up().await;
//! assert_eq!((receiver.connections(), receiver.requests()), (1, 1));
//! assert!(receiver.written() <= HostileReceiver::WRITTEN_MAX);
//! println!("hung up after {} bytes at most", receiver.written());
//! # Ok(())
//! # }
//! ```
//!
//! # Behaviours
//! A kind is one of [`TransportErrorKind`](pgw_core::webhook::TransportErrorKind), a number the status of an answer. An
//! answer brings at most [`BODY_START_MAX`](pgw_core::webhook::Attempt::BODY_START_MAX) bytes of the body, as they came,
//! and at most 64 KiB of it are read. *Again* says whether the connection may carry another request
//! ([`Behaviour::connection`]).
//!
//! | behaviour | what it does | outcome | again |
//! |---|---|---|---|
//! | [`WellBehaved`](Behaviour::WellBehaved) | answers 200; the control | 200 | yes |
//! | [`WellBehavedTls`](Behaviour::WellBehavedTls) | answers 200 over TLS; the control | 200 | yes |
//! | [`HangAfterAccept`](Behaviour::HangAfterAccept) | accepts, silence | timeout | no |
//! | [`HangInHandshake`](Behaviour::HangInHandshake) | accepts, silence instead of TLS | timeout | no |
//! | [`HangAfterHeaders`](Behaviour::HangAfterHeaders) | headers, silence instead of the body | timeout | no |
//! | [`DripHeaders`](Behaviour::DripHeaders) | a byte of a header each second | timeout | no |
//! | [`DripBody`](Behaviour::DripBody) | a byte of the body each second | timeout | no |
//! | [`EndlessBody`](Behaviour::EndlessBody) | a body of 1 GiB | 200 | no |
//! | [`GzipBomb`](Behaviour::GzipBomb) | 6.5 MiB of gzip that are 1 GiB | 200 | no |
//! | [`HugeHeader`](Behaviour::HugeHeader) | one header of 16 MiB | protocol | no |
//! | [`EndlessHeaders`](Behaviour::EndlessHeaders) | headers up to 1 GiB | protocol | no |
//! | [`ContinueFlood`](Behaviour::ContinueFlood) | `100 Continue` up to 1 GiB | protocol or timeout | no |
//! | [`RedirectChain`](Behaviour::RedirectChain) | 1,000 redirects to itself | 302 | yes |
//! | [`RedirectToMetadata`](Behaviour::RedirectToMetadata) | a redirect to `http://169.254.169.254/` | 302 | yes |
//! | [`ResetBeforeRequest`](Behaviour::ResetBeforeRequest) | resets at once | reset or connect | no |
//! | [`ResetAfterRequest`](Behaviour::ResetAfterRequest) | reads the request, resets | reset | no |
//! | [`HalfClose`](Behaviour::HalfClose) | reads the request, ends its side | reset | no |
//! | [`PlainTextOnTls`](Behaviour::PlainTextOnTls) | HTTP on an `https` address | tls | no |
//! | [`SelfSigned`](Behaviour::SelfSigned) | a certificate that signs itself | tls | no |
//! | [`WrongName`](Behaviour::WrongName) | a trusted certificate for another name | tls | no |
//! | [`Expired`](Behaviour::Expired) | a trusted certificate of the year 2000 | tls | no |
//! | [`LengthTooLong`](Behaviour::LengthTooLong) | announces 1,000 bytes, sends 2, ends | reset | no |
//! | [`LengthTooShort`](Behaviour::LengthTooShort) | announces 2 bytes, adds a forged answer | 200 | no |
//! | [`LengthNegative`](Behaviour::LengthNegative) | announces -1 bytes | protocol | no |
//! | [`LengthTwice`](Behaviour::LengthTwice) | announces 2 bytes and 3 bytes | protocol | no |
//! | [`BadChunk`](Behaviour::BadChunk) | a chunk whose size is no number | protocol | no |
//! | [`Garbage`](Behaviour::Garbage) | greets in another protocol | protocol | no |
//! | [`Http09`](Behaviour::Http09) | a body without status and headers | protocol | no |
//! | [`Upgrade`](Behaviour::Upgrade) | changes the protocol unasked | 101 | no |
//! | [`Gone`](Behaviour::Gone) | 410 | 410 | yes |
//! | [`RetryAfterHuge`](Behaviour::RetryAfterHuge) | `Retry-After` of 10^18 seconds | 429 | yes |
//! | [`RetryAfterYear9999`](Behaviour::RetryAfterYear9999) | `Retry-After` in the year 9999 | 429 | yes |
//! | [`RetryAfterNegative`](Behaviour::RetryAfterNegative) | `Retry-After` of -1 seconds | 429 without it | yes |
//! | [`RetryAfterGarbage`](Behaviour::RetryAfterGarbage) | `Retry-After` without a meaning | 429 without it | yes |
//!
//! # What else holds
//! - One request makes at most one connection and is sent at most once.
//! - An exchange whose outcome is a timeout ends with the deadline: give it a short one ([`Behaviour::hangs`]).
//! - What the receiver could write is at most [`HostileReceiver::WRITTEN_MAX`]: what the sender read, and what the kernel
//!   took. The flood of `100 Continue` is the exception ([`Behaviour::written_max`]): HTTP libraries skip such answers
//!   without counting them, so that only the deadline bounds it; no memory is kept of them.
//! - The connection is closed by the sender ([`HostileReceiver::hung_up`]) unless it may be used again.
//! - The next request to somebody else is sent as if nothing had happened.
//!
//! The receiver is bounded as well: 64 connections at a time, 1 MiB of a request, 1 GiB of an answer.

mod behaviour;
mod peer;
mod receiver;
mod script;
mod slow;
mod tls;

pub use behaviour::{Behaviour, Connection, Outcome, Violation};
pub use receiver::HostileReceiver;
pub use slow::SlowResolver;
