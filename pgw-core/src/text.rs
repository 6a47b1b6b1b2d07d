//! Text from outside, bounded and clean: names, references, descriptions, reasons, payment methods.
//!
//! Each type is parsed once at the edge. None can hold a control character (NUL neither) or a card
//! number. Email addresses and metadata have files of their own.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

use crate::error::Error;
use crate::id::ErasureId;
use crate::pan::contains_card_number;

/// Why a text is refused. The messages continue a field's name, as in "description must …", and
/// never echo the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Nothing is left after trimming.
    #[error("must not be empty")]
    Empty,
    /// Too many characters.
    #[error("must have at most {max} characters")]
    TooLong {
        /// The most characters allowed.
        max: usize,
    },
    /// A control character, such as a line feed or NUL.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// A character that this kind of text does not have.
    #[error("must not contain spaces or other characters that are not allowed")]
    InvalidCharacter,
    /// The number of a payment card.
    #[error("must not contain a card number")]
    CardNumber,
}

impl TextError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong { .. } => "too_long",
            Self::ControlCharacter => "control_character",
            Self::InvalidCharacter => "invalid_character",
            Self::CardNumber => "card_number",
        }
    }
}

/// Free text in Unicode normalisation form C without whitespace at its ends: 1 to `max_chars`
/// characters, no control character, no card number.
///
/// ```
/// use pgw_core::text::{TextError, clean};
/// assert_eq!(clean("  Zoe\u{308} ", 10).as_deref(), Ok("Zo\u{eb}"));
/// assert_eq!(clean("4111 1111 1111 1111", 100), Err(TextError::CardNumber));
/// ```
///
/// # Errors
/// The [`TextError`] that says which of these it is not.
pub fn clean(text: &str, max_chars: usize) -> Result<String, TextError> {
    let too_long = TextError::TooLong { max: max_chars };
    // Normalising is bounded by the length before it, and shortens no ordinary text this much.
    if text.len() > max_chars.saturating_mul(RAW_BYTES_PER_CHAR_MAX) {
        return Err(too_long);
    }
    if text.chars().any(char::is_control) {
        return Err(TextError::ControlCharacter);
    }
    let text: String = text.trim().nfc().collect();
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.chars().count() > max_chars {
        return Err(too_long);
    }
    if contains_card_number(&text) {
        return Err(TextError::CardNumber);
    }
    Ok(text)
}

/// A text of 1 to `max_chars` allowed ASCII characters without a card number, taken as it is.
fn token(text: &str, max_chars: usize, is_allowed: fn(u8) -> bool) -> Result<String, TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.len() > max_chars.saturating_mul(4) || text.chars().count() > max_chars {
        return Err(TextError::TooLong { max: max_chars });
    }
    if text.chars().any(char::is_control) {
        return Err(TextError::ControlCharacter);
    }
    if !text.bytes().all(is_allowed) {
        return Err(TextError::InvalidCharacter);
    }
    if contains_card_number(text) {
        return Err(TextError::CardNumber);
    }
    Ok(text.to_owned())
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $max:literal, $debug:ident, |$text:ident| $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The most characters it has.
            pub const CHARS_MAX: usize = $max;

            /// Reads it, as the type says.
            ///
            /// # Errors
            /// The [`TextError`] that says what is wrong with it.
            pub fn parse($text: &str) -> Result<Self, TextError> {
                let parsed: Result<String, TextError> = $parse;
                parsed.map(|text| Self(text.into_boxed_str()))
            }

            /// The text.
            #[must_use]
            pub const fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                text!(@$debug f, $name, self)
            }
        }
    };
    (@redacted $f:ident, $name:ident, $self:ident) => {
        $f.write_str(concat!(stringify!($name), "(…)"))
    };
    (@shown $f:ident, $name:ident, $self:ident) => {
        $f.debug_tuple(stringify!($name)).field(&&*$self.0).finish()
    };
}

text!(
    /// A customer's name: 1 to 200 characters, as [`clean`] leaves them. Personal data.
    CustomerName, 200, redacted, |text| clean(text, Self::CHARS_MAX)
);
text!(
    /// The host's own name for a customer: 1 to 64 of `A-Z a-z 0-9 _ . : @ -`. Personal data.
    CustomerId, 64, redacted, |text| token(text, Self::CHARS_MAX, is_id_byte)
);
text!(
    /// What a payment is for: 1 to 500 characters, as [`clean`] leaves them. May hold personal
    /// data.
    Description, 500, redacted, |text| clean(text, Self::CHARS_MAX)
);
text!(
    /// Why somebody did something, such as refund: 1 to 500 characters, as [`clean`] leaves them. May hold personal data: people write who
    /// asked for it.
    Reason, 500, redacted, |text| clean(text, Self::CHARS_MAX)
);
text!(
    /// The processor's token of a payment method, such as `tok_visa`: 1 to 64 of
    /// `A-Z a-z 0-9 - . _ ~ + / = : @`, enough for any base64 (RFC 9110 §11.2 `token68`).
    PaymentMethod, 64, shown, |text| token(text, Self::CHARS_MAX, is_method_byte)
);

text!(
    /// What somebody agrees to, such as `newsletter`: 1 to 64 of `a-z 0-9 _ . -`.
    Purpose, 64, shown, |text| token(text, Self::CHARS_MAX, is_word_byte)
);
text!(
    /// Which wording of some terms, such as `2026-11`: 1 to 64 of `A-Z a-z 0-9 _ . : @ -`.
    TermsVersion, 64, shown, |text| token(text, Self::CHARS_MAX, is_id_byte)
);
text!(
    /// Where a consent was given, such as `checkout form`: 1 to 200 characters, as [`clean`] leaves them. May hold personal data.
    ConsentSource, 200, redacted, |text| clean(text, Self::CHARS_MAX)
);

impl CustomerId {
    /// What stands for a customer after its erasure: the erasure's id. `None` for the few ids that look like a card number, which no
    /// erasure has.
    #[must_use]
    pub fn of_erasure(erasure: ErasureId) -> Option<Self> {
        Self::parse(&erasure.to_string()).ok()
    }

    /// That nobody who is new is called like an erasure: they would count as erased already, and never be.
    pub(crate) fn check_new(&self) -> Result<(), Error> {
        if self.as_str().parse::<ErasureId>().is_err() {
            return Ok(());
        }
        Err(Error::Invalid {
            field: "customer_id",
            code: "reserved",
            message: "must not be the id of an erasure, which stands for somebody erased"
                .to_owned(),
        })
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte)
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.:@-".contains(&byte)
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(&byte)
}

/// How many bytes before normalisation a character after it may have come from. Decomposed
/// Vietnamese and Hangul need at most nine.
const RAW_BYTES_PER_CHAR_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clean_normalises_and_trims() {
        assert_eq!(clean("Ada Lovelace", 200).as_deref(), Ok("Ada Lovelace"));
        assert_eq!(clean("\u{a0} Ada\u{3000}", 3).as_deref(), Ok("Ada"));
        assert_eq!(clean("e\u{301}", 1).as_deref(), Ok("\u{e9}"));
        assert_eq!(clean("\u{1112}\u{1161}\u{11ab}", 1).as_deref(), Ok("한"));
        assert_eq!(clean("👩‍💻", 3).as_deref(), Ok("👩‍💻"));
    }

    #[test]
    fn clean_refuses_each_fault() {
        assert_eq!(clean("", 5), Err(TextError::Empty));
        assert_eq!(clean(" \u{a0} ", 5), Err(TextError::Empty));
        assert_eq!(clean("abcdef", 5), Err(TextError::TooLong { max: 5 }));
        assert_eq!(clean(&" ".repeat(1_000_000), 5), Err(TextError::TooLong { max: 5 }));
        for text in ["a\u{0}b", "a\nb", "a\n", "\ta", "a\u{7f}", "a\u{85}", "\u{9f}"] {
            assert_eq!(clean(text, 5), Err(TextError::ControlCharacter), "{text:?}");
        }
        assert_eq!(clean("4242-4242-4242-4242", 50), Err(TextError::CardNumber));
        // A character that form C itself makes longer.
        assert_eq!(clean("\u{fb2c}", 2), Err(TextError::TooLong { max: 2 }));
    }

    #[test]
    fn tokens_have_only_their_characters() {
        for text in ["cus_42", "a", "user:1@shop.example-2", &"x".repeat(64)] {
            assert_eq!(CustomerId::parse(text).expect("valid").as_str(), text);
        }
        for text in ["a b", " a", "é", "a/b", "a'b", "a\"b", "<a>"] {
            assert_eq!(CustomerId::parse(text), Err(TextError::InvalidCharacter), "{text}");
        }
        assert_eq!(CustomerId::parse(""), Err(TextError::Empty));
        assert_eq!(CustomerId::parse(&"x".repeat(65)), Err(TextError::TooLong { max: 64 }));
        assert_eq!(CustomerId::parse(&"é".repeat(65)), Err(TextError::TooLong { max: 64 }));
        assert_eq!(CustomerId::parse("a\u{0}"), Err(TextError::ControlCharacter));
        assert_eq!(CustomerId::parse("4111111111111111"), Err(TextError::CardNumber));
        for text in ["tok_visa", "tok_slow_250", "pm_1NXWQ+/==", "card"] {
            assert_eq!(PaymentMethod::parse(text).expect("valid").as_str(), text);
        }
        assert_eq!(PaymentMethod::parse("tok visa"), Err(TextError::InvalidCharacter));
        assert_eq!(PaymentMethod::parse("4111-1111-1111-1111"), Err(TextError::CardNumber));
    }

    #[test]
    fn the_limits_are_those_documented() {
        let long = "x".repeat(501);
        assert_eq!(CustomerName::parse(&long), Err(TextError::TooLong { max: 200 }));
        assert_eq!(Description::parse(&long), Err(TextError::TooLong { max: 500 }));
        assert_eq!(Reason::parse(&long), Err(TextError::TooLong { max: 500 }));
        assert_eq!(CustomerName::parse(&long[..200]).map(|name| name.as_str().len()), Ok(200));
        assert_eq!(Reason::parse(&long[..500]).map(|reason| reason.as_str().len()), Ok(500));
    }

    #[test]
    fn debug_never_shows_personal_data() {
        let marker = "marker-7";
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            CustomerName::parse(marker).expect("valid"),
            CustomerId::parse(marker).expect("valid"),
            Description::parse(marker).expect("valid"),
            Reason::parse(marker).expect("valid"),
        );
        assert_eq!(shown, "CustomerName(…) CustomerId(…) Description(…) Reason(…)");
        assert_eq!(
            format!("{:?}", PaymentMethod::parse("tok_visa").expect("valid")),
            "PaymentMethod(\"tok_visa\")"
        );
    }

    #[test]
    fn errors_have_codes() {
        let all = [
            TextError::Empty,
            TextError::TooLong { max: 1 },
            TextError::ControlCharacter,
            TextError::InvalidCharacter,
            TextError::CardNumber,
        ];
        let codes = all.map(|error| error.code());
        assert_eq!(
            codes,
            ["empty", "too_long", "control_character", "invalid_character", "card_number"]
        );
        assert_eq!(TextError::TooLong { max: 64 }.to_string(), "must have at most 64 characters");
    }

    proptest! {
        #[test]
        fn what_clean_gives_is_clean(text in any::<String>(), max in 1_usize..50) {
            if let Ok(cleaned) = clean(&text, max) {
                prop_assert!((1..=max).contains(&cleaned.chars().count()));
                prop_assert!(!cleaned.chars().any(char::is_control));
                prop_assert_eq!(cleaned.trim(), cleaned.as_str());
                prop_assert!(!contains_card_number(&cleaned));
                prop_assert_eq!(clean(&cleaned, max), Ok(cleaned));
            }
        }
    }
}
