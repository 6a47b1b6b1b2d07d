//! [`Fields`]: reads a JSON body member by member, so that every fault is found at once, each has its path and code, and
//! none echoes what was submitted. Which members a request has is [`crate::dto`]'s business.

use std::borrow::Cow;
use std::fmt;

use pgw_core::access::NetworkError;
use pgw_core::currency::CurrencyError;
use pgw_core::email::EmailError;
use pgw_core::id::IdError;
use pgw_core::idempotency::IdempotencyKeyError;
use pgw_core::metadata::MetadataError;
use pgw_core::money::MoneyError;
use pgw_core::page::CursorError;
use pgw_core::pan::contains_card_number;
use pgw_core::payment::UnknownName;
use pgw_core::text::TextError;
use pgw_core::timestamp::TimestampError;
use pgw_core::webhook::{CustomHeaderError, EndpointUrlError};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::{FieldError, Location, Problem};

/// The members of a JSON object, taken one after another; what is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    members: Vec<(String, &'a RawValue)>,
    errors: Vec<FieldError>,
    /// The member that this object is the value of; empty for the body itself.
    within: &'static str,
}

impl<'a> Fields<'a> {
    /// The members of a body. An empty body is an object without members.
    pub(crate) fn of(body: &'a [u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self { members: Vec::new(), errors: Vec::new(), within: "" });
        }
        let text = std::str::from_utf8(body).map_err(|_| whole("invalid_utf8", "must be UTF-8"))?;
        let Members(members) = serde_json::from_str(text).map_err(|error| {
            if error.is_data() {
                whole("invalid_type", "must be a JSON object")
            } else {
                whole("malformed", "must be JSON")
            }
        })?;
        let mut fields = Self { members, errors: Vec::new(), within: "" };
        fields.refuse_repeated();
        Ok(fields)
    }

    /// A text that parses as a `T`; `None` when it is absent, null or at fault.
    pub(crate) fn parse<T, E: Fault>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(fault) => self.fault(name, fault.code(), fault.to_string()),
        }
    }

    /// As [`Self::parse`], of a member that must be there.
    pub(crate) fn require<T, E: Fault>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.must_be_there(name);
        self.parse(name, parse)
    }

    /// The exact text of a decimal, given as a JSON number or string. Which amount it is depends on the currency.
    pub(crate) fn decimal(&mut self, name: &'static str) -> Option<Box<str>> {
        let raw = self.take(name)?;
        match raw.get().as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => Some(raw.get().into()),
            Some(b'"') => self.decode(name, raw).map(Into::into),
            _ => self.fault(name, "invalid_type", "must be a number, or a string that holds one"),
        }
    }

    /// A whole number.
    pub(crate) fn whole_number(&mut self, name: &'static str) -> Option<u64> {
        let raw = self.take(name)?;
        match raw.get().parse() {
            Ok(number) => Some(number),
            Err(_) => self.fault(name, "invalid_type", "must be a whole number, not negative"),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &'static str) -> Option<bool> {
        match self.take(name)?.get() {
            "true" => Some(true),
            "false" => Some(false),
            _ => self.fault(name, "invalid_type", "must be true or false"),
        }
    }

    /// A list of texts, each of which parses as a `T`, at most `max` of them.
    pub(crate) fn list<T, E: Fault>(
        &mut self,
        name: &'static str,
        max: usize,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let raw = self.take(name)?;
        let Ok(items) = serde_json::from_str::<Vec<String>>(raw.get()) else {
            return self.fault(name, "invalid_type", "must be a list of strings");
        };
        if items.len() > max {
            return self.fault(name, "too_many", format!("must have at most {max} items"));
        }
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match parse(item) {
                Ok(value) => parsed.push(value),
                Err(fault) => {
                    let path = format!("{name}[{index}]");
                    self.fault::<()>(path, fault.code(), fault.to_string());
                }
            }
        }
        (parsed.len() == items.len()).then_some(parsed)
    }

    /// An object that must be there, read like a body. The paths of its faults start with its name.
    pub(crate) fn require_object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        self.must_be_there(name);
        let raw = self.take(name)?;
        let Ok(Members(members)) = serde_json::from_str(raw.get()) else {
            return self.fault(name, "invalid_type", "must be an object");
        };
        let mut inner = Self { members, errors: std::mem::take(&mut self.errors), within: name };
        inner.refuse_repeated();
        let value = read(&mut inner);
        inner.refuse_unknown();
        self.errors = inner.errors;
        Some(value)
    }

    /// An object whose values are texts, read as pairs; `max` is how many of them may be of use.
    pub(crate) fn pairs<T, E: Fault>(
        &mut self,
        name: &'static str,
        max: usize,
        parse: impl FnOnce(Vec<(String, String)>) -> Result<T, E>,
    ) -> Option<T> {
        let raw = self.take(name)?;
        let Ok(Members(members)) = serde_json::from_str(raw.get()) else {
            return self.fault(name, "invalid_type", "must be an object with strings as values");
        };
        let mut pairs = Vec::new();
        // One more than allowed says that there are too many; the rest need not be decoded.
        for (key, value) in members.into_iter().take(max + 1) {
            let Ok(value) = serde_json::from_str::<String>(value.get()) else {
                let position = pairs.len() + 1;
                let msg = format!("value of pair {position} must be a string");
                return self.fault(name, "invalid_type", msg);
            };
            pairs.push((key, value));
        }
        match parse(pairs) {
            Ok(parsed) => Some(parsed),
            Err(fault) => self.fault(name, fault.code(), fault.to_string()),
        }
    }

    /// Notes a fault; `None`, for the caller to return.
    pub(crate) fn fault<T>(
        &mut self,
        path: impl Into<Cow<'static, str>>,
        code: &'static str,
        msg: impl Into<Cow<'static, str>>,
    ) -> Option<T> {
        if self.errors.len() < ERRORS_MAX {
            let path = match (self.within, path.into()) {
                ("", path) => path,
                (within, path) if path.is_empty() => within.into(),
                (within, path) => format!("{within}.{path}").into(),
            };
            self.errors.push(FieldError::new(Location::Body, path, code, msg));
        }
        None
    }

    /// What was read, unless something is at fault. A member that was not taken is unknown.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problem> {
        self.refuse_unknown();
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(Problem::invalid(self.errors)),
        }
    }

    /// Whether there is such a member, and it is not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, raw)| member == name && raw.get() != "null")
    }

    /// Whether there is such a member and it is null.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.members.iter().any(|(member, raw)| member == name && raw.get() == "null")
    }

    fn must_be_there(&mut self, name: &'static str) {
        if !self.has(name) {
            self.fault::<()>(name, "required", "is required");
        }
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        let raw = self.take(name)?;
        if raw.get().starts_with('"') {
            self.decode(name, raw)
        } else {
            self.fault(name, "invalid_type", "must be a string")
        }
    }

    fn decode(&mut self, name: &'static str, raw: &RawValue) -> Option<String> {
        match serde_json::from_str(raw.get()) {
            Ok(text) => Some(text),
            Err(_) => self.fault(name, "malformed", "must be valid Unicode text"),
        }
    }

    /// A member's value; null is as good as absent.
    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.members.iter().position(|(member, _)| member == name)?;
        let (_, raw) = self.members.swap_remove(at);
        (raw.get() != "null").then_some(raw)
    }

    fn refuse_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.members) {
            self.fault::<()>(shown(name), "unknown", "is not a member of this request");
        }
    }

    /// Readers disagree on which of two members of one name counts, so none does (RFC 8259 §4).
    fn refuse_repeated(&mut self) {
        self.members.sort_by(|a, b| a.0.cmp(&b.0));
        let count = self.members.len();
        self.members.dedup_by(|a, b| a.0 == b.0);
        if self.members.len() < count {
            self.fault::<()>("", "duplicate", "must have each member once");
        }
    }
}

/// Why a text is not what it should be: a stable word for programs; [`fmt::Display`] gives the sentence. Neither echoes
/// the text.
pub(crate) trait Fault: fmt::Display {
    fn code(&self) -> &'static str;
}

macro_rules! faults {
    ($($type:ty => |$error:ident| $code:expr,)*) => {
        $(impl Fault for $type {
            fn code(&self) -> &'static str {
                let $error = self;
                $code
            }
        })*
    };
}

faults! {
    TextError => |error| error.code(),
    EmailError => |error| error.code(),
    MetadataError => |error| error.code(),
    MoneyError => |error| error.code(),
    CurrencyError => |error| error.code(),
    UnknownName => |_error| "unknown_value",
    IdError => |_error| "invalid_id",
    CursorError => |_error| "invalid_cursor",
    TimestampError => |_error| "invalid_time",
    IdempotencyKeyError => |_error| "invalid_key",
    EndpointUrlError => |error| match error {
        EndpointUrlError::CardNumber => "card_number",
        _ => "invalid_url",
    },
    NetworkError => |error| error.code(),
    CustomHeaderError => |error| match error {
        CustomHeaderError::Name => "invalid_name",
        CustomHeaderError::Value => "invalid_value",
        CustomHeaderError::Reserved => "reserved",
        CustomHeaderError::Twice => "duplicate",
        CustomHeaderError::TooMany => "too_many",
        CustomHeaderError::CardNumber => "card_number",
        _ => "invalid",
    },
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A member's name as an error may show it: what could be personal data or a card number is not shown.
fn shown(name: String) -> Cow<'static, str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let fits = (1..=NAME_SHOWN_MAX).contains(&name.len());
    if plain && fits && !contains_card_number(&name) { name.into() } else { "".into() }
}

fn whole(code: &'static str, msg: &'static str) -> Problem {
    Problem::invalid(vec![FieldError::new(Location::Body, "", code, msg)])
}

/// Most faults that one answer names: a person fixes a few at a time, and a hostile body could have thousands.
const ERRORS_MAX: usize = 50;
/// Longest unknown member name that is named back: longer than any of ours.
const NAME_SHOWN_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use pgw_core::metadata::Metadata;
    use pgw_core::text::Description;

    use super::*;

    fn codes(problem: &Problem) -> String {
        serde_json::to_string(problem.errors()).unwrap()
    }

    #[test]
    fn every_fault_is_found_at_once_and_none_is_echoed() {
        let body =
            br#"{"a":7777,"b":"7777\u0000","c":{"7777":1},"zzz":"7777","4111111111111111":0}"#;
        let mut fields = Fields::of(body).unwrap();
        fields.parse("a", Description::parse);
        fields.parse("b", Description::parse);
        fields.pairs("c", Metadata::PAIRS_MAX, Metadata::from_pairs);
        fields.require("d", Description::parse);
        let shown = codes(&fields.finish(Some(())).unwrap_err());
        for code in ["invalid_type", "control_character", "required", "unknown"] {
            assert!(shown.contains(code), "{code} in {shown}");
        }
        assert!(!shown.contains("7777") && !shown.contains("4111") && shown.contains("zzz"));
    }

    #[test]
    fn decimals_keep_every_digit() {
        let body = br#"{"a":49.990000000000000001,"b":"0.1","c":1e2,"d":true}"#;
        let mut fields = Fields::of(body).unwrap();
        assert_eq!(fields.decimal("a").as_deref(), Some("49.990000000000000001"));
        assert_eq!(fields.decimal("b").as_deref(), Some("0.1"));
        assert_eq!(fields.decimal("c").as_deref(), Some("1e2"));
        assert_eq!(fields.decimal("d"), None);
        assert!(codes(&fields.finish(Some(())).unwrap_err()).contains("invalid_type"));
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for (body, code) in [
            (&b"{"[..], "malformed"),
            (b"{} x", "malformed"),
            (b"[]", "invalid_type"),
            (b"7", "invalid_type"),
            (b"null", "invalid_type"),
            (b"\"\xff\"", "invalid_utf8"),
        ] {
            assert!(codes(&Fields::of(body).unwrap_err()).contains(code), "{code}");
        }
        let twice = Fields::of(br#"{"a":1,"\u0061":2}"#).unwrap();
        assert!(codes(&twice.finish(Some(())).unwrap_err()).contains("duplicate"));
        assert!(Fields::of(b"").unwrap().finish(Some(())).is_ok());
    }
}
