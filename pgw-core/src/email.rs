//! Email addresses, as customers type them.
//!
//! The check finds typing mistakes and keeps dangerous text out; only sending a message proves an
//! address. Nothing is sent from here.

use std::fmt;
use std::str::FromStr;

use crate::pan::contains_card_number;

/// An email address of a mailbox in a domain (RFC 5321 §4.1.2, with the dot-string form of the
/// local part and the international characters of RFC 6531). At most 254 bytes, kept as given.
/// Personal data: it has no `Display`, and `Debug` does not show it.
///
/// Refused though the RFC has them: quoted local parts, IP addresses as domains, domains of one
/// label.
///
/// ```
/// use pgw_core::email::Email;
/// let email = Email::parse("ada@example.com")?;
/// assert_eq!(email.as_str(), "ada@example.com");
/// assert_eq!(format!("{email:?}"), "Email(…)");
/// assert!(Email::parse("ada@example").is_err());
/// # Ok::<(), pgw_core::email::EmailError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(Box<str>);

/// Why a text is no email address. Never echoes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmailError {
    /// Longer than 254 bytes.
    #[error("must have at most 254 bytes")]
    TooLong,
    /// Not in the form of an address. Spaces around it count as such.
    #[error("must be an email address")]
    Malformed,
    /// The number of a payment card stands in it.
    #[error("must not contain a card number")]
    CardNumber,
}

impl Email {
    /// Reads an address.
    ///
    /// # Errors
    /// The [`EmailError`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        if text.len() > EMAIL_LEN_MAX {
            return Err(EmailError::TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(EmailError::Malformed)?;
        if !is_local_part(local) || !is_domain(domain) {
            return Err(EmailError::Malformed);
        }
        if contains_card_number(text) {
            return Err(EmailError::CardNumber);
        }
        Ok(Self(text.into()))
    }

    /// The address, as it was given.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        Self::parse(text)
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

impl EmailError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "invalid_email",
            Self::CardNumber => "card_number",
        }
    }
}

/// A dot-string: atoms of letters, digits and some signs, with single dots between.
fn is_local_part(text: &str) -> bool {
    let is_atom_char = |c: char| {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_international(c)
    };
    text.len() <= LOCAL_LEN_MAX
        && text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_char))
}

/// Two labels or more; the last is not a number, so that an IPv4 address is no domain.
fn is_domain(text: &str) -> bool {
    let mut labels = 0;
    let mut is_number = false;
    for label in text.split('.') {
        let fits = (1..=LABEL_LEN_MAX).contains(&label.len());
        let is_label_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || is_international(c);
        if !fits
            || label.starts_with('-')
            || label.ends_with('-')
            || !label.chars().all(is_label_char)
        {
            return false;
        }
        labels += 1;
        is_number = label.bytes().all(|byte| byte.is_ascii_digit());
    }
    labels >= 2 && !is_number
}

/// Any visible character beyond ASCII. Which letters a registry allows is its own affair; what is
/// invisible or turns the direction of writing would let two addresses look the same.
fn is_international(c: char) -> bool {
    let is_invisible = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{2060}'..='\u{206f}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{ffff}'
            | '\u{e0000}'..
    );
    !c.is_ascii() && !c.is_control() && !c.is_whitespace() && !is_invisible
}

/// The path of RFC 5321 §4.5.3.1.3 has 256 bytes with its angle brackets.
const EMAIL_LEN_MAX: usize = 254;

/// RFC 5321 §4.5.3.1.1.
const LOCAL_LEN_MAX: usize = 64;

/// RFC 1035 §2.3.4.
const LABEL_LEN_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_ordinary_addresses() {
        for text in [
            "a@b.co",
            "ada@example.com",
            "first.last+tag@sub.example.co.uk",
            "o'brien@example.ie",
            "x_y-z@1and1.com",
            "用户@例子.广告",
            "josé@example.com",
            "a@xn--bcher-kva.example",
            "1@2.example",
            &format!("{}@example.com", "a".repeat(64)),
        ] {
            assert_eq!(Email::parse(text).expect(text).as_str(), text);
            assert_eq!(text.parse(), Email::parse(text));
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "@",
            "a@",
            "@b.co",
            "a",
            "a.b.co",
            "a@b",
            "a@@b.co",
            "a@b@c.co",
            " a@b.co",
            "a@b.co ",
            "a b@c.co",
            "a@b .co",
            "a\u{0}@b.co",
            "a@b.co\n",
            "a\r\nBcc: x@y.zz@b.co",
            ".a@b.co",
            "a.@b.co",
            "a..b@c.co",
            "a@.co",
            "a@b..co",
            "a@b.co.",
            "a@-b.co",
            "a@b-.co",
            "a@b_c.co",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "\"a b\"@c.co",
            "Ada <a@b.co>",
            "<a@b.co>",
            "a,b@c.co",
            "a;b@c.co",
            "a(c)@b.co",
            "a\\@b.co",
            "a\u{202e}@b.co",
            "a\u{200b}@b.co",
            "a\u{a0}@b.co",
            "a@b\u{ad}.co",
            "a@b.c!",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("a@{}.com", "b".repeat(64)),
        ] {
            assert_eq!(Email::parse(text), Err(EmailError::Malformed), "{text:?}");
        }
        let label = "b".repeat(60);
        let domain = [label.as_str(); 4].join(".");
        assert!(Email::parse(&format!("{}@{domain}", "a".repeat(10))).is_ok());
        assert_eq!(Email::parse(&format!("{}@{domain}", "a".repeat(11))), Err(EmailError::TooLong));
    }

    #[test]
    fn refuses_card_numbers() {
        for text in ["4111111111111111@example.com", "ada+4111-1111-1111-1111@example.com"] {
            assert_eq!(Email::parse(text), Err(EmailError::CardNumber), "{text}");
        }
    }

    #[test]
    fn debug_and_errors_do_not_echo() {
        assert_eq!(format!("{:?}", Email::parse("marker@example.com")), "Ok(Email(…))");
        assert!(!EmailError::Malformed.to_string().contains('@'));
        let codes = [EmailError::TooLong, EmailError::Malformed, EmailError::CardNumber]
            .map(|error| error.code());
        assert_eq!(codes, ["too_long", "invalid_email", "card_number"]);
    }

    proptest! {
        #[test]
        fn what_is_read_is_bounded_and_clean(text in "[a-z0-9.@ \\PC]{0,40}@[a-z0-9.-]{0,40}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(email.as_str().matches('@').count(), 1);
                let is_blank = |c: char| c.is_control() || c.is_whitespace();
                prop_assert!(!email.as_str().contains(is_blank));
            }
        }

        #[test]
        fn plain_addresses_are_read(
            local in "[a-z]{1,10}([.+_-][a-z0-9]{1,5})?",
            domain in "([a-z][a-z0-9]{0,8}[.]){1,3}[a-z]{2,6}",
        ) {
            let text = format!("{local}@{domain}");
            prop_assert!(Email::parse(&text).is_ok(), "{}", text);
        }
    }
}
