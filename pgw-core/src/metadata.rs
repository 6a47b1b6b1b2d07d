//! Metadata: the host's own string pairs on a payment, bounded and in one canonical order.
//!
//! The order is the one in which JavaScript keeps members, so that a stored body survives
//! `JSON.stringify(JSON.parse(body))`. What the pairs mean is the host's affair.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pan::contains_card_number;
use crate::text::TextError;

/// Up to 50 pairs of strings with distinct keys. Keys have 1 to 40 characters and values at most
/// 500 (none is fine); neither has control characters or card numbers. May hold personal data, so
/// `Debug` shows only the size.
///
/// ```
/// use pgw_core::metadata::Metadata;
/// let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
/// let metadata = Metadata::from_pairs([pair("cart", "42"), pair("10", "b"), pair("9", "a")])?;
/// assert_eq!(metadata.value("cart"), Some("42"));
/// assert_eq!(metadata.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["9", "10", "cart"]);
/// # Ok::<(), pgw_core::metadata::MetadataError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Sorted by [`rank`], each key once.
    pairs: Vec<(Box<str>, Box<str>)>,
}

/// Why pairs are refused. Positions count from 1 in the order given; neither key nor value is
/// echoed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// More than 50.
    #[error("must have at most {max} pairs")]
    TooManyPairs {
        /// The most pairs allowed.
        max: usize,
    },
    /// The key of a pair is also that of an earlier pair.
    #[error("must have each key once (pair {position} repeats one)")]
    DuplicateKey {
        /// Which pair.
        position: usize,
    },
    /// The key of a pair is refused.
    #[error("key of pair {position} {fault}")]
    Key {
        /// Which pair.
        position: usize,
        /// What is wrong with it.
        fault: TextError,
    },
    /// The value of a pair is refused.
    #[error("value of pair {position} {fault}")]
    Value {
        /// Which pair.
        position: usize,
        /// What is wrong with it.
        fault: TextError,
    },
}

impl Metadata {
    /// The most pairs.
    pub const PAIRS_MAX: usize = 50;
    /// The most characters of a key.
    pub const KEY_CHARS_MAX: usize = 40;
    /// The most characters of a value.
    pub const VALUE_CHARS_MAX: usize = 500;

    /// Checks pairs and puts them in order. It takes no more than one pair too many from the
    /// iterator.
    ///
    /// # Errors
    /// The [`MetadataError`] of the first pair that is refused.
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, MetadataError> {
        let mut metadata = Self::default();
        for (key, value) in pairs {
            metadata.insert(key, value)?;
        }
        Ok(metadata)
    }

    /// The pairs, keys that are array indexes first and by number, the others by their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let at = self.find(key).ok()?;
        self.pairs.get(at).map(|(_, value)| &**value)
    }

    /// How many pairs there are, 0 to 50.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn insert(&mut self, key: String, value: String) -> Result<(), MetadataError> {
        let position = self.pairs.len() + 1;
        if position > Self::PAIRS_MAX {
            return Err(MetadataError::TooManyPairs { max: Self::PAIRS_MAX });
        }
        if key.is_empty() {
            return Err(MetadataError::Key { position, fault: TextError::Empty });
        }
        check(&key, Self::KEY_CHARS_MAX).map_err(|fault| MetadataError::Key { position, fault })?;
        check(&value, Self::VALUE_CHARS_MAX)
            .map_err(|fault| MetadataError::Value { position, fault })?;
        match self.find(&key) {
            Ok(_) => Err(MetadataError::DuplicateKey { position }),
            Err(at) => {
                self.pairs.insert(at, (key.into(), value.into()));
                Ok(())
            }
        }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        let wanted = rank(key);
        self.pairs.binary_search_by(|(found, _)| rank(found).cmp(&wanted))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({} pairs)", self.len())
    }
}

impl MetadataError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooManyPairs { .. } => "too_many_pairs",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::Key { fault, .. } | Self::Value { fault, .. } => fault.code(),
        }
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// From an object in a self-describing format, such as JSON. Errors echo neither keys nor values.
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not `deserialize_map`, whose errors would echo a value of another type.
        deserializer.deserialize_any(PairsVisitor)
    }
}

/// Answers every type but the expected with one text: serde's own would echo the value.
macro_rules! refuse {
    ($lifetime:lifetime, $text:literal: $($visit:ident($kind:ty)),+ $(,)?) => {
        $(fn $visit<E: serde::de::Error>(self, _: $kind) -> Result<Self::Value, E> {
            Err(E::custom($text))
        })+

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Err(E::custom($text))
        }

        fn visit_seq<A: SeqAccess<$lifetime>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(A::Error::custom($text))
        }
    };
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Metadata;

    refuse!('de, "must be an object of strings":
        visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut metadata = Metadata::default();
        while let Some(key) = map.next_key::<String>()? {
            // This is how a bare number looks when a host turns on serde_json's
            // `arbitrary_precision`.
            if key.starts_with("$serde_json::private::") {
                return Err(A::Error::custom("must be an object of strings"));
            }
            let value = map.next_value_seed(StringSeed)?;
            metadata.insert(key, value).map_err(A::Error::custom)?;
        }
        Ok(metadata)
    }
}

/// Reads a value that must be a string.
struct StringSeed;

impl<'de> DeserializeSeed<'de> for StringSeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StringSeed {
    type Value = String;

    refuse!('de, "values must be strings":
        visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(A::Error::custom("values must be strings"))
    }
}

fn check(text: &str, max_chars: usize) -> Result<(), TextError> {
    // The bytes bound the work on a text that is far too long.
    if text.len() > max_chars * 4 || text.chars().count() > max_chars {
        return Err(TextError::TooLong { max: max_chars });
    }
    if text.chars().any(char::is_control) {
        return Err(TextError::ControlCharacter);
    }
    if contains_card_number(text) {
        return Err(TextError::CardNumber);
    }
    Ok(())
}

/// Where a key stands: array indexes (ECMA-262 §6.1.7: canonical numbers up to 2^32 - 2) by number,
/// then the others by their bytes. JavaScript keeps those in the order of insertion, whatever it
/// is.
fn rank(key: &str) -> (u32, &str) {
    let is_canonical = key == "0" || !key.starts_with('0');
    let is_digits = key.bytes().all(|byte| byte.is_ascii_digit());
    match key.parse::<u32>() {
        Ok(index) if is_canonical && is_digits && index < u32::MAX => (index, ""),
        _ => (u32::MAX, key),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Metadata, MetadataError> {
        Metadata::from_pairs(
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        )
    }

    fn keys(metadata: &Metadata) -> Vec<&str> {
        metadata.iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn keeps_the_order_of_javascript() {
        let metadata = from(&[
            ("b", ""),
            ("10", ""),
            ("9", ""),
            ("01", ""),
            ("4294967294", ""),
            ("4294967295", ""),
            ("a", ""),
            ("0", ""),
            ("-1", ""),
            ("+1", ""),
            ("é", ""),
            ("__proto__", ""),
            ("1.0", ""),
            ("99999999999", ""),
        ])
        .expect("valid");
        assert_eq!(
            keys(&metadata),
            [
                "0",
                "9",
                "10",
                "4294967294",
                "+1",
                "-1",
                "01",
                "1.0",
                "4294967295",
                "99999999999",
                "__proto__",
                "a",
                "b",
                "é",
            ]
        );
        assert_eq!(
            serde_json::to_string(&from(&[("b", "x"), ("2", "\u{2028}\"/")]).expect("valid"))
                .expect("serializes"),
            "{\"2\":\"\u{2028}\\\"/\",\"b\":\"x\"}"
        );
    }

    #[test]
    fn values_are_found_by_key() {
        let metadata = from(&[("b", "1"), ("7", "2"), ("a", "")]).expect("valid");
        assert_eq!(
            (metadata.value("b"), metadata.value("7"), metadata.value("a")),
            (Some("1"), Some("2"), Some(""))
        );
        assert_eq!((metadata.value("c"), metadata.value("07"), metadata.len()), (None, None, 3));
        assert!(Metadata::default().is_empty() && !metadata.is_empty());
    }

    #[test]
    fn refuses_each_fault_without_echo() {
        let long_key = "k".repeat(41);
        let long_value = "v".repeat(501);
        let card = "4111 1111 1111 1111";
        for (pairs, code, text) in [
            (&[("", "x")][..], "empty", "key of pair 1 must not be empty"),
            (
                &[("a", "x"), (&long_key, "x")],
                "too_long",
                "key of pair 2 must have at most 40 characters",
            ),
            (&[("a", &long_value)], "too_long", "value of pair 1 must have at most 500 characters"),
            (
                &[("a\u{0}", "x")],
                "control_character",
                "key of pair 1 must not contain control characters",
            ),
            (
                &[("a", "x\n")],
                "control_character",
                "value of pair 1 must not contain control characters",
            ),
            (&[(card, "x")], "card_number", "key of pair 1 must not contain a card number"),
            (&[("a", card)], "card_number", "value of pair 1 must not contain a card number"),
            (
                &[("a", "x"), ("b", "x"), ("a", "y")],
                "duplicate_key",
                "must have each key once (pair 3 repeats one)",
            ),
        ] {
            let error = from(pairs).expect_err(text);
            assert_eq!((error.code(), error.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn the_bounds_are_inclusive_and_the_iterator_is_not_drained() {
        let key = "é".repeat(40);
        assert!(from(&[(&key, &"é".repeat(500))]).is_ok());
        let pairs = |count: u32| (0..count).map(|n| (format!("k{n}"), String::new()));
        assert_eq!(Metadata::from_pairs(pairs(50)).map(|metadata| metadata.len()), Ok(50));
        let mut endless = (0..).map(|n: u64| (format!("k{n}"), String::new()));
        let error = Metadata::from_pairs(&mut endless).expect_err("too many");
        assert_eq!(
            (error, error.code()),
            (MetadataError::TooManyPairs { max: 50 }, "too_many_pairs")
        );
        assert_eq!(endless.next(), Some(("k51".to_owned(), String::new())));
    }

    #[test]
    fn debug_shows_only_the_size() {
        assert_eq!(
            format!("{:?}", from(&[("marker", "marker")]).expect("valid")),
            "Metadata(1 pairs)"
        );
    }

    #[test]
    fn reads_json_strictly_and_without_echo() {
        let read = serde_json::from_str::<Metadata>;
        assert_eq!(
            read(r#"{"b":"1","2":"x"}"#).expect("valid"),
            from(&[("2", "x"), ("b", "1")]).expect("valid")
        );
        assert_eq!(read("{}").expect("valid"), Metadata::default());
        assert!(
            read(r#"{"a":"1","\u0061":"2"}"#).expect_err("twice").to_string().contains("repeats")
        );
        for text in [
            r#"{"marker":7777}"#,
            r#"{"a":7777.5}"#,
            r#"{"a":-7777}"#,
            r#"{"a":true}"#,
            r#"{"a":null}"#,
            r#"{"a":["marker"]}"#,
            r#"{"a":{"marker":"marker"}}"#,
            r#""marker""#,
            "7777",
            "-7777",
            "true",
            "null",
            r#"["marker"]"#,
            r#"{"a":"marker\u0000"}"#,
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(
                !error.contains("marker") && !error.contains("7777") && error.contains("must"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn json_round_trips_in_one_order(
            pairs in proptest::collection::btree_map(
                "[0-9]{1,4}|[a-z0-9é\\-]{1,8}",
                "[a-zA-Z \"\\\\]{0,20}",
                0..50,
            ),
        ) {
            let metadata = Metadata::from_pairs(pairs.clone()).expect("valid");
            let reversed = Metadata::from_pairs(pairs.clone().into_iter().rev()).expect("valid");
            let json = serde_json::to_string(&metadata).expect("serializes");
            prop_assert_eq!(&json, &serde_json::to_string(&reversed).expect("serializes"));
            prop_assert_eq!(&serde_json::from_str::<Metadata>(&json).expect("reads"), &metadata);
            let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
            let back: BTreeMap<String, String> = metadata.iter().map(owned).collect();
            prop_assert_eq!(back, pairs);
            prop_assert!(keys(&metadata).is_sorted_by_key(|key| rank(key)));
        }
    }
}
