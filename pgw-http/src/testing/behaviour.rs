//! [`Behaviour`]: what a receiver does to whoever calls it, and what a sender that keeps the contract makes of it. How it is
//! done on the wire is in `script.rs`.

use pgw_core::webhook::{Attempt, TransportError, TransportErrorKind as Kind, WebhookResponse};

use crate::testing::HostileReceiver;

/// What a [`HostileReceiver`] does. The [module](super) has the table of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Behaviour {
    /// Answers 200 and `ok`, and keeps the connection open for the next request. The control.
    WellBehaved,
    /// The same over TLS, with a certificate of an authority of the receiver's own.
    WellBehavedTls,
    /// Accepts and says nothing.
    HangAfterAccept,
    /// Accepts on an `https` address and never answers the handshake.
    HangInHandshake,
    /// Answers with headers that promise a body, and says nothing more.
    HangAfterHeaders,
    /// Sends its headers one byte a second.
    DripHeaders,
    /// Sends its headers at once and its body one byte a second.
    DripBody,
    /// A body of 1 GiB.
    EndlessBody,
    /// A gzip body of 6.5 MiB that is 1 GiB when decompressed.
    GzipBomb,
    /// One header of 16 MiB.
    HugeHeader,
    /// Headers without end.
    EndlessHeaders,
    /// `100 Continue` without end.
    ContinueFlood,
    /// A redirect to itself, and so on for 1,000 requests.
    RedirectChain,
    /// A redirect to the metadata service of cloud providers.
    RedirectToMetadata,
    /// Resets the connection without reading the request.
    ResetBeforeRequest,
    /// Reads the request and resets the connection.
    ResetAfterRequest,
    /// Reads the request, ends its side of the connection and goes on listening.
    HalfClose,
    /// Plain text on an `https` address.
    PlainTextOnTls,
    /// A certificate that signs itself.
    SelfSigned,
    /// A certificate of its authority for another name.
    WrongName,
    /// A certificate of its authority that ran out in the year 2000.
    Expired,
    /// Announces a longer body than it sends before it ends the connection.
    LengthTooLong,
    /// Announces a shorter body than it sends. What is too much looks like the answer to the next request.
    LengthTooShort,
    /// Announces a body of minus one byte.
    LengthNegative,
    /// Announces two different lengths.
    LengthTwice,
    /// A chunked body whose chunk size is not a number.
    BadChunk,
    /// The greeting of another protocol.
    Garbage,
    /// A body without status and headers, as in HTTP/0.9.
    Http09,
    /// `101 Switching Protocols`, which nobody asked for.
    Upgrade,
    /// 410.
    Gone,
    /// 429 and to wait 10^18 seconds.
    RetryAfterHuge,
    /// 429 and to wait until the end of the year 9999.
    RetryAfterYear9999,
    /// 429 and to wait minus one second.
    RetryAfterNegative,
    /// 429 and to wait for something that is neither a number nor a date.
    RetryAfterGarbage,
}

/// What a sender reports. The two values are all there are: there is an answer or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer of this status.
    Answered(u16),
    /// An error of one of these kinds; where there are two, it depends on what the sender notices first.
    Failed(&'static [Kind]),
}

/// Whether the connection may carry another request after an exchange. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It may: the exchange was complete, whatever it said.
    Reusable,
    /// It must be closed: nobody knows what its next bytes belong to.
    Spent,
}

/// What a sender did that it should not have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// It reported another status.
    #[error("the status is {reported} instead of {expected:?}")]
    Status {
        /// What it reported.
        reported: u16,
        /// What it should have reported.
        expected: Outcome,
    },
    /// It reported another error.
    #[error("the error is {reported} instead of {expected:?}")]
    Error {
        /// What it reported.
        reported: Kind,
        /// What it should have reported.
        expected: Outcome,
    },
    /// It returned more of the body than [`Attempt::BODY_START_MAX`].
    #[error("{0} bytes of the body were returned")]
    BodyTooLong(usize),
    /// It returned something else than the bytes of the body.
    #[error("the body was decompressed")]
    Decompressed,
    /// It read a time to wait where there is none.
    #[error("a nonsensical Retry-After was taken for a time")]
    RetryAfter,
}

impl Behaviour {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::WellBehaved,
        Self::WellBehavedTls,
        Self::HangAfterAccept,
        Self::HangInHandshake,
        Self::HangAfterHeaders,
        Self::DripHeaders,
        Self::DripBody,
        Self::EndlessBody,
        Self::GzipBomb,
        Self::HugeHeader,
        Self::EndlessHeaders,
        Self::ContinueFlood,
        Self::RedirectChain,
        Self::RedirectToMetadata,
        Self::ResetBeforeRequest,
        Self::ResetAfterRequest,
        Self::HalfClose,
        Self::PlainTextOnTls,
        Self::SelfSigned,
        Self::WrongName,
        Self::Expired,
        Self::LengthTooLong,
        Self::LengthTooShort,
        Self::LengthNegative,
        Self::LengthTwice,
        Self::BadChunk,
        Self::Garbage,
        Self::Http09,
        Self::Upgrade,
        Self::Gone,
        Self::RetryAfterHuge,
        Self::RetryAfterYear9999,
        Self::RetryAfterNegative,
        Self::RetryAfterGarbage,
    ];

    /// What a sender reports that keeps the contract of [`WebhookTransport`](pgw_core::webhook::WebhookTransport).
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::WellBehaved
            | Self::WellBehavedTls
            | Self::EndlessBody
            | Self::GzipBomb
            | Self::LengthTooShort => Outcome::Answered(200),
            Self::HangAfterAccept
            | Self::HangInHandshake
            | Self::HangAfterHeaders
            | Self::DripHeaders
            | Self::DripBody => Outcome::Failed(&[Kind::Timeout]),
            Self::HugeHeader
            | Self::EndlessHeaders
            | Self::LengthNegative
            | Self::LengthTwice
            | Self::BadChunk
            | Self::Garbage
            | Self::Http09 => Outcome::Failed(&[Kind::Protocol]),
            Self::ContinueFlood => Outcome::Failed(&[Kind::Protocol, Kind::Timeout]),
            Self::RedirectChain | Self::RedirectToMetadata => Outcome::Answered(302),
            Self::ResetBeforeRequest => Outcome::Failed(&[Kind::Reset, Kind::Connect]),
            Self::ResetAfterRequest | Self::HalfClose | Self::LengthTooLong => {
                Outcome::Failed(&[Kind::Reset])
            }
            Self::PlainTextOnTls | Self::SelfSigned | Self::WrongName | Self::Expired => {
                Outcome::Failed(&[Kind::Tls])
            }
            Self::Upgrade => Outcome::Answered(101),
            Self::Gone => Outcome::Answered(410),
            Self::RetryAfterHuge
            | Self::RetryAfterYear9999
            | Self::RetryAfterNegative
            | Self::RetryAfterGarbage => Outcome::Answered(429),
        }
    }

    /// Whether only the deadline ends the exchange, or may end it: give such a request a short one.
    #[must_use]
    pub fn hangs(self) -> bool {
        matches!(self.outcome(), Outcome::Failed(kinds) if kinds.contains(&Kind::Timeout))
    }

    /// Whether the connection may carry another request.
    #[must_use]
    pub const fn connection(self) -> Connection {
        match self {
            Self::WellBehaved
            | Self::WellBehavedTls
            | Self::RedirectChain
            | Self::RedirectToMetadata
            | Self::Gone
            | Self::RetryAfterHuge
            | Self::RetryAfterYear9999
            | Self::RetryAfterNegative
            | Self::RetryAfterGarbage => Connection::Reusable,
            _ => Connection::Spent,
        }
    }

    /// Most bytes the receiver gets rid of on one connection before the sender hangs up. `None` where the contract sets no
    /// other bound than the deadline.
    #[must_use]
    pub const fn written_max(self) -> Option<u64> {
        match self {
            Self::ContinueFlood => None,
            _ => Some(HostileReceiver::WRITTEN_MAX),
        }
    }

    /// Whether the receiver has an `https` address.
    #[must_use]
    pub const fn is_https(self) -> bool {
        matches!(
            self,
            Self::WellBehavedTls
                | Self::HangInHandshake
                | Self::PlainTextOnTls
                | Self::SelfSigned
                | Self::WrongName
                | Self::Expired
        )
    }

    /// Judges what [`send`](pgw_core::webhook::WebhookTransport::send) returned.
    ///
    /// # Errors
    /// [`Violation`] says in what it differs from what the contract asks for.
    pub fn check(self, sent: &Result<WebhookResponse, TransportError>) -> Result<(), Violation> {
        let expected = self.outcome();
        let answer = match (sent, expected) {
            (Ok(answer), Outcome::Answered(status)) if answer.status == status => answer,
            (Err(error), Outcome::Failed(kinds)) if kinds.contains(&error.kind) => return Ok(()),
            (Ok(answer), _) => return Err(Violation::Status { reported: answer.status, expected }),
            (Err(error), _) => return Err(Violation::Error { reported: error.kind, expected }),
        };
        if answer.body_start.len() > Attempt::BODY_START_MAX {
            return Err(Violation::BodyTooLong(answer.body_start.len()));
        }
        if self == Self::GzipBomb && !answer.body_start.starts_with(&GZIP_MAGIC) {
            return Err(Violation::Decompressed);
        }
        let nonsense = matches!(self, Self::RetryAfterNegative | Self::RetryAfterGarbage);
        if nonsense && answer.retry_after.is_some() {
            return Err(Violation::RetryAfter);
        }
        Ok(())
    }
}

/// What every gzip stream starts with (RFC 1952 §2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
