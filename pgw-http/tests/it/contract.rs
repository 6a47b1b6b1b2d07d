//! Holds every answer against `openapi.json`: its status, its type and its body have to be what the document says.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use axum::http::Method;
use jsonschema::{Draft, JSONSchema};
use serde_json::{Value, json};

use crate::harness::Reply;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    close(&mut document);
    document
});

static VALIDATORS: LazyLock<Mutex<BTreeMap<String, Arc<JSONSchema>>>> =
    LazyLock::new(Mutex::default);

/// Panics when an answer to one of our routes is not as documented, or when it was given to a request that is not. What a host
/// answers for itself is left alone.
pub(crate) fn check(method: &Method, path: &str, body: &[u8], reply: &Reply) {
    if reply.header("x-request-id").is_none() {
        return;
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let Some(operation) = operation(method, path) else { return };
    if reply.status.is_success() {
        check_request(operation, query, body);
    }
    let status = reply.status.as_str();
    let response = operation["responses"].get(status);
    let response = response.unwrap_or_else(|| panic!("{method} {path}: {status} undocumented"));
    let response = resolve(response);
    let Some(content) = response.get("content") else {
        assert!(reply.body.is_empty(), "{method} {path}: {status} has a body");
        return;
    };
    let kind = reply.header("content-type").unwrap_or_default();
    let media = content.get(kind.split(';').next().unwrap_or_default());
    let media = media.unwrap_or_else(|| panic!("{method} {path}: {status} is {kind:?}"));
    // Texts of other kinds have no schema of ours.
    if let Some(name) = media["schema"]["$ref"].as_str() {
        assert_valid(name, &reply.json());
    }
}

/// What was taken has to be documented.
fn check_request(operation: &'static Value, query: &str, body: &[u8]) {
    let parameters = operation["parameters"].as_array().unwrap().iter().map(resolve);
    let known: Vec<_> = parameters.filter(|parameter| parameter["in"] == "query").collect();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap();
        assert!(known.iter().any(|parameter| parameter["name"] == name), "{name} undocumented");
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if let (Some(name), false) = (schema["$ref"].as_str(), body.is_empty()) {
        assert_valid(name, &serde_json::from_slice(body).unwrap());
    }
}

fn assert_valid(name: &str, value: &Value) {
    let validator = validator(name);
    if let Err(faults) = validator.validate(value) {
        let faults: Vec<_> = faults.map(|fault| fault.to_string()).collect();
        panic!("this is no {name}: {faults:?}\n{value:#}");
    }
}

fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let matching = paths.iter().filter(|(template, _)| matches(template, path));
    // What is spelled out goes before a parameter.
    let (_, path) = matching.min_by_key(|(template, _)| template.matches('{').count())?;
    path.get(method.as_str().to_ascii_lowercase())
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template.zip(path).all(|(part, given)| part.starts_with('{') || part == given)
}

fn resolve(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(target) => DOCUMENT.pointer(target.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

fn validator(name: &str) -> Arc<JSONSchema> {
    let mut validators = VALIDATORS.lock().unwrap();
    let validator = validators.entry(name.to_owned()).or_insert_with(|| {
        let schema = json!({"$ref": name, "components": DOCUMENT["components"]});
        let mut options = JSONSchema::options();
        let options = options.with_draft(Draft::Draft7).should_validate_formats(true);
        Arc::new(options.compile(&schema).unwrap())
    });
    Arc::clone(validator)
}

/// No members but the documented ones: clients must put up with more, we must not have forgotten any.
fn close(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.contains_key("properties") && members.contains_key("required") {
                members.entry("additionalProperties").or_insert(false.into());
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The document does not let everything through.
#[test]
fn what_is_not_documented_is_seen() {
    let name = "#/components/schemas/Received";
    assert!(validator(name).is_valid(&json!({"received": true})));
    for other in [json!({}), json!({"received": 1}), json!({"received": true, "more": 1})] {
        assert!(!validator(name).is_valid(&other), "{other}");
    }
    let operation = operation(&Method::POST, "/webhook-events/retry").unwrap();
    assert_eq!(operation["operationId"], "retryWebhookEvents");
}
