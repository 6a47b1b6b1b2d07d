//! `JSON.stringify(JSON.parse(text))` as ECMAScript defines it, to test that bodies survive it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JavaScript value that came out of `JSON.parse`.
pub(crate) enum Js {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// What JavaScript makes of a JSON text when it reads and writes it.
pub(crate) fn restringified(text: &[u8]) -> String {
    let value: Js = serde_json::from_slice(text).expect("bodies are JSON");
    let mut out = String::new();
    write(&value, &mut out);
    out
}

fn write(value: &Js, out: &mut String) {
    match value {
        Js::Null => out.push_str("null"),
        Js::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Js::Number(number) => out.push_str(ryu_js::Buffer::new().format(*number)),
        Js::Text(text) => quote(text, out),
        Js::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Js::Object(members) => {
            // OrdinaryOwnPropertyKeys: array indexes ascending, then the rest as they came.
            let mut indexes: Vec<_> =
                members.iter().filter_map(|m| Some((array_index(&m.0)?, m))).collect();
            indexes.sort_by_key(|(index, _)| *index);
            let rest = members.iter().filter(|m| array_index(&m.0).is_none());
            out.push('{');
            for (i, (name, value)) in indexes.into_iter().map(|(_, m)| m).chain(rest).enumerate() {
                if i > 0 {
                    out.push(',');
                }
                quote(name, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

fn array_index(name: &str) -> Option<u32> {
    let index: u32 = name.parse().ok()?;
    (index != u32::MAX && index.to_string() == name).then_some(index)
}

/// QuoteJSONString.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

impl<'de> Deserialize<'de> for Js {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsVisitor)
    }
}

struct JsVisitor;

impl<'de> Visitor<'de> for JsVisitor {
    type Value = Js;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Js, E> {
        Ok(Js::Null)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Js, E> {
        Ok(Js::Bool(yes))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Js, E> {
        Ok(Js::Number(number as f64))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Js, E> {
        Ok(Js::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Js, E> {
        Ok(Js::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Js, E> {
        Ok(Js::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Js, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Js::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Js, A::Error> {
        let mut members: Vec<(String, Js)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Js>()? {
            match members.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = value,
                None => members.push((name, value)),
            }
        }
        Ok(Js::Object(members))
    }
}

#[test]
fn behaves_as_javascript_does() {
    for (text, js) in [
        (r#"{"b":1,"a":2,"10":3,"9":4,"01":5}"#, r#"{"9":4,"10":3,"b":1,"a":2,"01":5}"#),
        (r#"{"a": 1.0, "b": 1e3, "c": 10.50}"#, r#"{"a":1,"b":1000,"c":10.5}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#""\u00e9\u0001\/\u2028""#, "\"é\\u0001/\u{2028}\""),
        ("12345678901234567890", "12345678901234567000"),
    ] {
        assert_eq!(restringified(text.as_bytes()), js);
    }
}
