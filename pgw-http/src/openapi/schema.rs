//! Short ways to write JSON Schema (draft 2020-12).

use serde_json::{Map, Value, json};

/// A text.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}

/// A text of at most so many characters, and at least one.
pub(super) fn text_to(max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max})
}

/// One of these texts.
pub(super) fn one_of(values: impl IntoIterator<Item = &'static str>) -> Value {
    json!({"type": "string", "enum": values.into_iter().collect::<Vec<_>>()})
}

/// A TypeID with this prefix.
pub(super) fn id(prefix: &str) -> Value {
    json!({"type": "string", "pattern": format!("^{prefix}_{SUFFIX}$")})
}

/// A whole number from this one up.
pub(super) fn whole(from: u64) -> Value {
    json!({"type": "integer", "minimum": from})
}

/// A whole number within bounds.
pub(super) fn between(from: u64, to: u64) -> Value {
    json!({"type": "integer", "minimum": from, "maximum": to})
}

pub(super) fn flag() -> Value {
    json!({"type": "boolean"})
}

pub(super) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

pub(super) fn uri() -> Value {
    json!({"type": "string", "format": "uri"})
}

/// Always this text.
pub(super) fn exactly(text: &str) -> Value {
    json!({"type": "string", "const": text})
}

/// A list of at most so many.
pub(super) fn list(items: Value, max: usize) -> Value {
    let mut list = json!({"type": "array", "maxItems": max});
    list["items"] = items;
    list
}

/// This, or null.
pub(super) fn nullable(schema: Value) -> Value {
    let either = vec![schema, json!({"type": "null"})];
    Map::from_iter([("anyOf".to_owned(), either.into())]).into()
}

/// One of our schemas.
pub(super) fn named(name: &str) -> Value {
    super::reference("schemas", name)
}

/// With a sentence about it.
pub(super) fn about(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

/// An object of an answer: every member is there, and later versions may have more.
pub(super) fn object<const N: usize>(members: [(&'static str, Value); N]) -> Value {
    let names: Vec<_> = members.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "required": names, "properties": properties(members)})
}

/// The object of a request: no other members.
pub(super) fn request<const N: usize>(
    required: &[&'static str],
    members: [(&'static str, Value); N],
) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": properties(members),
        "additionalProperties": false,
    })
}

/// The same object with a member that is not always there.
pub(super) fn with(mut object: Value, name: &'static str, schema: Value) -> Value {
    object["properties"][name] = schema;
    object
}

fn properties<const N: usize>(members: [(&'static str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// 128 bits in the base 32 of TypeID.
const SUFFIX: &str = "[0-7][0-9a-hjkmnp-tv-z]{25}";
