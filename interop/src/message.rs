//! A random message: what is signed, by which secrets, what happens to it on its way, and what its receivers must think of it.

use std::time::Duration;

use pgw_core::testing::random::Random;
use pgw_core::timestamp::Timestamp;
use pgw_webhook_client::VerifyError;
use pgw_webhook_client::profile::standard;

use crate::peer::{Headers, Letter};
use crate::profile::Profile;
use crate::{event, object, words};

/// A message, the same for the same randomness but for the time.
#[derive(Debug)]
pub(crate) struct Message {
    id: String,
    body: Vec<u8>,
    dated: Dated,
    flaw: Option<Flaw>,
    /// The secrets that sign it.
    pub(crate) signers: Vec<String>,
    /// The secrets that it is verified with, one by one.
    pub(crate) receivers: Vec<String>,
}

/// How far from the sender's clock a message is dated.
#[derive(Debug, Clone, Copy)]
enum Dated {
    Ahead(Duration),
    Back(Duration),
}

/// Why a message must be refused, whatever the secret.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// The lowest bit of a byte of the body is turned over on the way.
    Byte(usize),
    /// It arrives under another id.
    Id(String),
    /// It arrives late, its signature right.
    Stale,
}

impl Message {
    /// Draws a message.
    pub(crate) fn draw(profile: Profile, random: &Random) -> Self {
        let (id, body) = draw_body(random);
        let [new, old, stranger] = [(); 3].map(|()| profile.secret(random));
        let flaw = random.hits(FLAWED_PER_MILLE).then(|| draw_flaw(profile, &body, random));
        let (signers, receivers) = if random.hits(ROTATING_PER_MILLE) {
            (profile.rotating(&new, &old), vec![stranger, new, old])
        } else {
            (vec![new.clone()], vec![new])
        };
        let dated = match flaw {
            Some(Flaw::Stale) => {
                Dated::Back(STALE_MIN + random.wait(Duration::from_secs(86_400 * 400)))
            }
            _ if random.hits(500) => Dated::Ahead(random.wait(FRESH_MAX)),
            _ => Dated::Back(random.wait(FRESH_MAX)),
        };
        Self { id, body, dated, flaw, signers, receivers }
    }

    /// What the sender signs if it is this time.
    pub(crate) fn letter(&self, now: Timestamp) -> Letter<'_> {
        let sent = match self.dated {
            Dated::Ahead(by) => now.plus(by),
            Dated::Back(by) => now.minus(by),
        };
        Letter { id: &self.id, sent, body: &self.body }
    }

    /// What arrives of what was sent.
    pub(crate) fn arrival(&self, mut headers: Headers) -> (Headers, Vec<u8>) {
        let mut body = self.body.clone();
        match &self.flaw {
            Some(Flaw::Byte(at)) => body[*at] ^= 1,
            Some(Flaw::Id(other)) => {
                for (name, value) in &mut headers {
                    if name == standard::ID_HEADER {
                        value.clone_from(other);
                    }
                }
            }
            Some(Flaw::Stale) | None => {}
        }
        (headers, body)
    }

    /// What a receiver with this secret must think of it.
    pub(crate) fn due(&self, secret: &String) -> Result<(), VerifyError> {
        match self.flaw {
            Some(Flaw::Stale) => Err(VerifyError::Stale),
            Some(Flaw::Byte(_) | Flaw::Id(_)) => Err(VerifyError::Mismatch),
            None if self.signers.contains(secret) => Ok(()),
            None => Err(VerifyError::Mismatch),
        }
    }

    /// In a few words, for whoever looks at a mismatch.
    pub(crate) fn summary(&self) -> String {
        let Self { id, body, dated, flaw, signers, receivers } = self;
        format!(
            "{} bytes under the id {id}, dated {dated:?}, signed {} times for {} receivers, flaw {flaw:?}",
            body.len(),
            signers.len(),
            receivers.len()
        )
    }
}

fn draw_body(random: &Random) -> (String, Vec<u8>) {
    if random.hits(EVENT_PER_MILLE) {
        return event::draw(random);
    }
    let id = words::visible(random, words::within(random, 1, pgw_webhook_client::ID_BYTES_MAX));
    (id, object::draw(random, words::spread(random, BODY_BYTES_MIN, BODY_BYTES_MAX)).into_bytes())
}

fn draw_flaw(profile: Profile, body: &[u8], random: &Random) -> Flaw {
    let drawn = match profile {
        Profile::Standard => random.below(3),
        // Neither signs an id.
        Profile::Seed | Profile::Stripe => random.below(2),
    };
    match drawn {
        0 => Flaw::Stale,
        1 => Flaw::Byte(ascii_at(body, random)),
        _ => Flaw::Id(words::visible(random, OTHER_ID_CHARS)),
    }
}

/// The place of an ASCII byte: ASCII it stays without its lowest bit, and the libraries take bodies that are UTF-8 only.
fn ascii_at(body: &[u8], random: &Random) -> usize {
    let from = words::within(random, 0, body.len() - 1);
    let (before, after) = body.split_at(from);
    after
        .iter()
        .position(u8::is_ascii)
        .map(|more| from + more)
        .or_else(|| before.iter().position(u8::is_ascii))
        .expect("a JSON object begins with an ASCII byte")
}

/// One in ten, so that thousands are accepted and hundreds refused.
const FLAWED_PER_MILLE: u32 = 100;

/// One in four: rotations are rare in life, but most that can go wrong with lists of signatures goes wrong there.
const ROTATING_PER_MILLE: u32 = 250;

/// Half are what pgw really sends, half what it might send one day.
const EVENT_PER_MILLE: u32 = 500;

/// `{}`.
const BODY_BYTES_MIN: usize = 2;

/// Ten times what Standard Webhooks recommends as a payload's limit, and a little more.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// How far off a message may be dated that is to be accepted: a minute less than all of the libraries tolerate, for slow machines.
const FRESH_MAX: Duration = Duration::from_secs(240);

/// The least age of one that is to be refused: what they tolerate, and the second that is lost by cutting to seconds.
const STALE_MIN: Duration = Duration::from_secs(302);

/// Too long to be the right one by chance.
const OTHER_ID_CHARS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_follows_from_its_randomness() {
        for number in 0..200 {
            let [a, b] = [(); 2].map(|()| Message::draw(Profile::Standard, &Random::new(number)));
            assert_eq!(format!("{a:?}"), format!("{b:?}"));
        }
    }

    #[test]
    fn every_kind_of_message_is_drawn() {
        let messages: Vec<_> =
            (0..500).map(|n| Message::draw(Profile::Standard, &Random::new(n))).collect();
        for kind in ["Some(Byte(", "Some(Id(", "Some(Stale)", "flaw None", "for 3 receivers"] {
            assert!(messages.iter().any(|message| message.summary().contains(kind)), "{kind}");
        }
    }

    #[test]
    fn a_byte_is_turned_over_and_stays_ascii() {
        let body = "{\"é\":\"ü\"}".as_bytes();
        for n in 0..100 {
            let at = ascii_at(body, &Random::new(n));
            assert!(body[at].is_ascii() && (body[at] ^ 1).is_ascii());
        }
    }
}
