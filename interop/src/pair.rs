//! A pair: pgw and a library, of which one signs; and the exchange of a message between them.

use std::fmt;
use std::slice;

use pgw_core::env::Env;
use pgw_core::testing::random::Random;

use crate::error::Error;
use crate::library::{LIBRARIES, Library, Role};
use crate::message::Message;
use crate::peer::{Headers, Peer, Verdict};

/// A library, and who of the two signs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    /// The library.
    pub(crate) library: &'static Library,
    sender: Sender,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Pgw,
    Library,
}

impl Pair {
    /// All there are: two for each library that signs, one for each that only verifies.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        LIBRARIES.iter().flat_map(|library| {
            let senders: &[Sender] = match library.role {
                Role::Both => &[Sender::Pgw, Sender::Library],
                Role::Receiver => &[Sender::Pgw],
            };
            senders.iter().map(move |&sender| Self { library, sender })
        })
    }

    /// One of the two signs a message, both verify it, and each must come to what is due.
    pub(crate) fn exchange(
        &self,
        peer: &mut dyn Peer,
        seed: u64,
        number: u64,
    ) -> Result<(), Error> {
        let Library { key, profile, .. } = *self.library;
        let message = Message::draw(profile, &self.random(seed, number));
        let letter = message.letter(Env::system().now());
        let sent = match self.sender {
            Sender::Pgw => profile.sign(&message.signers, &letter)?,
            Sender::Library => profile.join(&peer.sign(key, &message.signers, &letter)?, &letter),
        };
        let (headers, body) = message.arrival(sent);
        let theirs = peer.verify(key, &message.receivers, &headers, &body)?;
        self.judge(&message, &headers, &body, &theirs).and_then(|what| match what {
            None => Ok(()),
            Some(what) => Err(Error::Mismatch {
                pair: self.to_string(),
                seed,
                number,
                what: format!("{what}; {}", message.summary()),
            }),
        })
    }

    /// What is wrong with anybody's opinion.
    fn judge(
        &self,
        message: &Message,
        headers: &Headers,
        body: &[u8],
        theirs: &[Verdict],
    ) -> Result<Option<String>, Error> {
        let profile = self.library.profile;
        let mut first = None;
        for (place, (secret, their)) in message.receivers.iter().zip(theirs).enumerate() {
            let due = message.due(secret);
            let our = profile.verify(slice::from_ref(secret), headers, body)?.map(|_| ());
            if our != due || (*their == Verdict::Accepted) != due.is_ok() {
                return Ok(Some(format!(
                    "receiver {place}: pgw says {our:?}, the library says {their:?}, due is {due:?}"
                )));
            }
            first = first.or(due.is_ok().then_some(place));
        }
        // A receiver of ours in the middle of a rotation has several secrets, and says which it was.
        let ours = profile.verify(&message.receivers, headers, body)?.ok();
        Ok((ours != first).then(|| {
            format!("pgw with all secrets finds the signature of {ours:?}, due is {first:?}")
        }))
    }

    /// The randomness of a message, whatever else is run.
    fn random(&self, seed: u64, number: u64) -> Random {
        let name = self.to_string();
        let mix = |mixed: u64, word: u64| Random::new(mixed ^ word).number();
        Random::new(name.bytes().map(u64::from).chain([number]).fold(seed, mix))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sender {
            Sender::Pgw => write!(f, "pgw-to-{}", self.library.name),
            Sender::Library => write!(f, "{}-to-pgw", self.library.name),
        }
    }
}
