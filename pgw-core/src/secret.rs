//! Text that must not be shown: webhook secrets, API keys, peppers.

use std::fmt;

use zeroize::Zeroizing;

/// A secret text: wiped from memory when dropped, never printed, never serialised.
///
/// ```
/// use pgw_core::secret::Secret;
/// let secret = Secret::new("whsec_c2VjcmV0");
/// assert_eq!(format!("{secret:?}"), "Secret(…)");
/// assert_eq!(secret.expose(), "whsec_c2VjcmV0");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Every call is a place where it could leak; look twice.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
