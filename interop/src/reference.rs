//! The peer in this process: the crate `standardwebhooks`, the reference implementation.

use http::{HeaderMap, HeaderName, HeaderValue};
use standardwebhooks::Webhook;

use crate::error::Error;
use crate::peer::{Headers, Letter, Peer, Verdict};

/// The crate `standardwebhooks`.
#[derive(Debug)]
pub(crate) struct Reference;

impl Peer for Reference {
    fn sign(
        &mut self,
        _: &str,
        secrets: &[String],
        letter: &Letter<'_>,
    ) -> Result<Vec<String>, Error> {
        let sign = |secret: &String| {
            webhook(secret)?.sign(letter.id, letter.sent.as_secs(), letter.body).map_err(fault)
        };
        secrets.iter().map(sign).collect()
    }

    fn verify(
        &mut self,
        _: &str,
        secrets: &[String],
        headers: &Headers,
        body: &[u8],
    ) -> Result<Vec<Verdict>, Error> {
        let headers = header_map(headers)?;
        let verify = |secret: &String| {
            Ok(match webhook(secret)?.verify(body, &headers) {
                Ok(()) => Verdict::Accepted,
                Err(error) => Verdict::Refused(error.to_string()),
            })
        };
        secrets.iter().map(verify).collect()
    }
}

fn webhook(secret: &str) -> Result<Webhook, Error> {
    Webhook::new(secret).map_err(fault)
}

fn header_map(headers: &Headers) -> Result<HeaderMap, Error> {
    let pair = |(name, value): &(String, String)| {
        Ok((
            name.parse::<HeaderName>().map_err(fault)?,
            value.parse::<HeaderValue>().map_err(fault)?,
        ))
    };
    headers.iter().map(pair).collect()
}

fn fault(error: impl std::error::Error) -> Error {
    Error::Fault(error.to_string())
}
