//! API keys: shown once, stored as a keyed digest, found by prefix, compared in constant time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::access::Role;
use crate::env::Env;
use crate::id::KeyId;
use crate::privacy::CustomerDigest;
use crate::scope::{Mode, Scope};
use crate::secret::Secret;
use crate::text::{CustomerId, Description, Reason};
use crate::timestamp::Timestamp;

/// An API key as storage keeps it: without the key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names the key.
    pub id: KeyId,
    /// Merchant and mode it opens.
    pub scope: Scope,
    /// What its holder may do.
    pub role: Role,
    /// What it is for.
    pub name: Description,
    /// The part it is found by. Not secret.
    pub prefix: KeyPrefix,
    /// HMAC-SHA256 of the key's text under the pepper.
    pub digest: [u8; 32],
    /// When it was created.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked, when somebody said so.
    pub revoked_because: Option<Reason>,
    /// When it last opened something, to about a minute. Written by
    /// [`Storage::touch_api_key`](crate::storage::Storage::touch_api_key) alone, without a new version.
    pub last_used_at: Option<Timestamp>,
    /// Counts its changes, from 1.
    pub version: u64,
}

impl ApiKey {
    /// Whether a key with this digest is this key, in time that does not depend on how much of it matches.
    #[must_use]
    pub(crate) fn has_digest(&self, digest: &[u8; 32]) -> bool {
        digest.ct_eq(&self.digest).into()
    }

    /// Whether it works at this time.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("scope", &self.scope)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// The part of a key that it is found by: 12 characters of base64url, random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix([u8; PREFIX_LEN]);

impl KeyPrefix {
    /// Reads a prefix; `None` when the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if plain { text.as_bytes().try_into().ok().map(Self) } else { None }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a prefix is base64url, which is ASCII")
    }
}

/// A key as its holder has it: `pgw_test_<prefix><secret>`, 9 random bytes that find it and 32 that open it.
#[derive(Debug, Clone)]
pub struct ApiKeyText {
    text: Secret,
    prefix: KeyPrefix,
    mode: Mode,
}

impl ApiKeyText {
    /// A new key.
    #[must_use]
    pub fn mint(env: &Env, mode: Mode) -> Self {
        let prefix = URL_SAFE_NO_PAD.encode(env.bytes::<9>());
        let secret = URL_SAFE_NO_PAD.encode(env.bytes::<32>());
        Self::parse(&format!("pgw_{mode}_{prefix}{secret}"))
            .expect("what mint writes is what parse reads")
    }

    /// Reads what a caller presented; `None` when it cannot be a key of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (mode, rest) = match text.strip_prefix("pgw_")?.split_once('_')? {
            ("test", rest) => (Mode::Test, rest),
            ("live", rest) => (Mode::Live, rest),
            _ => return None,
        };
        let (prefix, secret) = rest.split_at_checked(PREFIX_LEN)?;
        let plain = secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if secret.len() != SECRET_LEN || !plain {
            return None;
        }
        Some(Self { text: Secret::new(text), prefix: KeyPrefix::parse(prefix)?, mode })
    }

    /// A key that nobody has: what is looked for when somebody presents what cannot be one, so that both take the same time. Its prefix has 72
    /// bits that are all one, and its secret is no number of whole bytes' base64url.
    pub(crate) fn nobodys() -> Self {
        let text = format!("pgw_test_{}", "_".repeat(PREFIX_LEN + SECRET_LEN));
        Self::parse(&text).expect("it has the form of a key")
    }

    /// What it is found by.
    #[must_use]
    pub const fn prefix(&self) -> KeyPrefix {
        self.prefix
    }

    /// The mode it says it opens.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The text, to be shown once.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.text
    }
}

/// The key that digests of API keys, and of customers, are made with. Kept outside the database, so that a copy of the database
/// opens nothing.
#[derive(Clone)]
pub struct Pepper(Secret);

impl Pepper {
    /// Fewest bytes: as many as the digest has.
    pub const LEN_MIN: usize = 32;

    /// A pepper; `None` when the secret is shorter than 32 bytes.
    #[must_use]
    pub fn new(secret: Secret) -> Option<Self> {
        (secret.expose().len() >= Self::LEN_MIN).then_some(Self(secret))
    }

    /// A random pepper: keys made with it work as long as this process runs.
    #[must_use]
    pub fn mint(env: &Env) -> Self {
        Self(Secret::new(URL_SAFE_NO_PAD.encode(env.bytes::<32>())))
    }

    /// The digest of a customer. Its key is derived, so that nothing which is hashed for one use is ever the hash for the other, and each part
    /// is told apart by its length.
    #[must_use]
    pub fn customer(&self, scope: &Scope, customer: &CustomerId) -> CustomerDigest {
        let key = self.mac(&[b"pgw customer digest 1"]);
        let parts = [scope.merchant.as_str(), scope.mode.as_str(), customer.as_str()];
        let lengths = parts.map(|part| (part.len() as u64).to_be_bytes());
        let [merchant, mode, id] = parts.map(str::as_bytes);
        let inputs: [&[u8]; 6] = [&lengths[0], merchant, &lengths[1], mode, &lengths[2], id];
        CustomerDigest(hmac(&key, &inputs))
    }

    /// What stands for a text in a fingerprint that is kept for ever: a bare hash could be guessed at.
    pub(crate) fn print(&self, text: &str) -> String {
        let key = self.mac(&[b"pgw idempotent print 1"]);
        CustomerDigest(hmac(&key, &[text.as_bytes()])).to_string()
    }

    /// The digest of a key.
    #[must_use]
    pub fn digest(&self, key: &ApiKeyText) -> [u8; 32] {
        self.mac(&[key.text.expose().as_bytes()])
    }

    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac(self.0.expose().as_bytes(), parts)
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        <Hmac<Sha256>>::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104)");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// Nine bytes in base64url: enough that prefixes never collide.
const PREFIX_LEN: usize = 12;
/// 32 bytes in base64url.
const SECRET_LEN: usize = 43;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_keys_parse_and_other_texts_do_not() {
        let env = Env::system();
        let key = ApiKeyText::mint(&env, Mode::Live);
        let text = key.secret().expose();
        assert!(text.starts_with("pgw_live_"));
        let again = ApiKeyText::parse(text).unwrap();
        assert_eq!((again.prefix(), again.mode()), (key.prefix(), Mode::Live));
        for bad in
            ["", "pgw_", "pgw_live_", &text[1..], &text[..text.len() - 1], &format!("{text}x")]
        {
            assert!(ApiKeyText::parse(bad).is_none(), "{bad}");
        }
        assert!(!format!("{key:?}").contains(&text[20..]));
    }

    #[test]
    fn any_text_is_safe_to_parse() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = ApiKeyText::parse(&String::from_utf8_lossy(bytes)).map(|key| key.prefix());
        });
    }

    #[test]
    fn a_customer_is_one_digest_in_each_scope_and_under_each_pepper() {
        let env = Env::system();
        let pepper = Pepper::mint(&env);
        let scope = |merchant: &str, mode| Scope::new(merchant.parse().unwrap(), mode);
        let id = |text| CustomerId::parse(text).unwrap();
        let here = scope("a", Mode::Test);
        let digest = pepper.customer(&here, &id("cus_1"));
        assert_eq!(digest, pepper.clone().customer(&here, &id("cus_1")));
        for other in [
            pepper.customer(&here, &id("cus_2")),
            pepper.customer(&scope("a", Mode::Live), &id("cus_1")),
            pepper.customer(&scope("b", Mode::Test), &id("cus_1")),
            Pepper::mint(&env).customer(&here, &id("cus_1")),
        ] {
            assert_ne!(other, digest);
        }
    }

    #[test]
    fn digests_depend_on_the_pepper() {
        let env = Env::system();
        let key = ApiKeyText::mint(&env, Mode::Test);
        assert_ne!(Pepper::mint(&env).digest(&key), Pepper::mint(&env).digest(&key));
        assert!(Pepper::new(Secret::new("short")).is_none());
    }
}
