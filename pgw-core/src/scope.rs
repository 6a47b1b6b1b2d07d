//! Whose data is meant: the merchant and the mode. Every key, index and read starts with it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A merchant: tenant and shard key at once. A host with one merchant uses [`MerchantId::default`].
///
/// ```
/// use pgw_core::scope::MerchantId;
/// assert_eq!(MerchantId::default().as_str(), "default");
/// assert!("acme-shop.eu".parse::<MerchantId>().is_ok());
/// assert!("two words".parse::<MerchantId>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MerchantId(Arc<str>);

impl MerchantId {
    /// Longest merchant id in bytes; it leads every index entry, so it is kept short.
    pub const LEN_MAX: usize = 64;

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MerchantId {
    fn default() -> Self {
        static DEFAULT: std::sync::OnceLock<MerchantId> = std::sync::OnceLock::new();
        DEFAULT.get_or_init(|| Self(Arc::from("default"))).clone()
    }
}

impl FromStr for MerchantId {
    type Err = MerchantIdError;

    fn from_str(text: &str) -> Result<Self, MerchantIdError> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if fits && plain { Ok(Self(Arc::from(text))) } else { Err(MerchantIdError) }
    }
}

impl fmt::Display for MerchantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MerchantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text cannot be a merchant id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 characters of A-Z, a-z, 0-9, '_', '-' and '.'")]
pub struct MerchantIdError;

/// Whether money is real. Data of one mode is invisible in the other. The two values are all there will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Mode {
    /// The sandbox: no money moves.
    #[default]
    Test,
    /// Real money.
    Live,
}

impl Mode {
    /// `test` or `live`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One merchant in one mode: what a read can see and a write can touch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Scope {
    /// The merchant.
    pub merchant: MerchantId,
    /// Test or live.
    pub mode: Mode,
}

impl Scope {
    /// The scope of a merchant in a mode.
    #[must_use]
    pub const fn new(merchant: MerchantId, mode: Mode) -> Self {
        Self { merchant, mode }
    }
}
