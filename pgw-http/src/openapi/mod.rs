//! The API as OpenAPI 3.1: put together from the table of routes, the kinds of problems, and the enums and limits of
//! [`pgw_core`]. `openapi.json` beside the crate's manifest is what comes out; a test compares the two, and the integration
//! tests hold every answer they get against it.

mod answers;
mod bodies;
mod operations;
mod schema;

use axum::http::StatusCode;
use pgw_core::access::Role;
use pgw_core::event::EventType;
use serde_json::{Map, Value, json};

use self::operations::{OPERATIONS, Operation, PARAMETERS, Parameter};
use crate::problem::{ProblemKind, TYPE_BASE};
use crate::rate_limit::Class;
use crate::routes::{Route, routes};

/// The document, for an API at this address.
pub(crate) fn document(base: Option<&str>) -> String {
    let document = json!({
        "openapi": "3.1.1",
        "info": {
            "title": "pgw",
            "version": pgw_core::representation::API_VERSION,
            "description": description(),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": base.unwrap_or("/")}],
        "security": [{"apiKey": []}, {"bearer": []}],
        "tags": tags(),
        "paths": paths(),
        "webhooks": webhooks(),
        "components": {
            "schemas": schemas(),
            "parameters": parameters(),
            "headers": headers(),
            "responses": problems(),
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer",
                           "description": "The same API key as a bearer token."},
            },
        },
    });
    let mut text = serde_json::to_string_pretty(&document)
        .expect("a JSON value has string keys only, and a String takes any write");
    text.push('\n');
    text
}

fn description() -> String {
    let mut text = String::from(INTRODUCTION);
    for class in Class::ALL {
        let limit = class.default_limit();
        let (quota, secs) = (limit.quota, limit.window.as_secs());
        text.push_str(&format!("\n- `{}`: {quota} requests in {secs} s", class.as_str()));
    }
    text
}

const INTRODUCTION: &str = "\
Payments, refunds, events and webhooks of one merchant, in test or live mode, as the API key says.

Amounts are in major units (`49.99`), a JSON number or a string, and are read exactly; answers hold `…_minor` integers beside \
them. Ids are TypeIDs; another merchant's id is as unknown as one that never was. Times are RFC 3339 in UTC. Unknown members of a \
request are refused.

## Idempotency
`Idempotency-Key` is optional: 1 to 255 visible ASCII characters, bare or quoted. Its scope is the merchant and the mode. The same \
request again gets the same answer, byte for byte, with `Idempotent-Replayed: true`; another request under the same key is \
answered 422. Stored answers are kept for at least 24 hours. The key's claim on what it made is kept for ever: a later replay \
answers the object's current state and never makes a second one, or 409 where it is gone or many were changed. What moves a payment on \
without a new operation (`confirm`, `resolve`) and consents, which hold personal data, are answered with their current state at once. \
Answers that tell a secret are kept encrypted. Whatever fails does not use up a key.

## Errors
Every error is `application/problem+json` (RFC 9457); see the schema `Problem`. 429 and 503 carry `Retry-After`.

## Limits
Where limits are on, each answer carries `RateLimit` and `RateLimit-Policy`. The defaults:";

fn tags() -> Value {
    let mut names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.tag()).collect();
    names.dedup();
    names.into_iter().map(|name| json!({"name": name})).collect()
}

fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for route in routes() {
        let Some(operation) = described(route) else { continue };
        let path = paths.entry(route.path()).or_insert_with(|| json!({}));
        let method = route.method().as_str().to_ascii_lowercase();
        path[method] = operation_of(route, operation);
    }
    paths
}

fn described(route: &Route) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.describes(route))
}

fn operation_of(route: &Route, operation: &Operation) -> Value {
    let mut shown = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag()],
        "parameters": parameters_of(route, operation),
        "responses": responses_of(route, operation),
    });
    match route.permission() {
        Some(permission) => {
            let may = Role::ALL.into_iter().filter(|role| role.may(permission));
            shown["x-roles"] = may.map(Role::as_str).collect();
        }
        None => shown["security"] = json!([]),
    }
    if let Some(body) = operation.body {
        let content = json!({"application/json": {"schema": reference("schemas", body)}});
        let is_required = operation.is_body_required;
        shown["requestBody"] = json!({"required": is_required, "content": content});
    }
    if operation.is_any_body {
        shown["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": {}}}});
    }
    shown
}

fn parameters_of(route: &Route, operation: &Operation) -> Vec<Value> {
    let path = route.path().split('/').filter_map(|part| part.strip_prefix('{'));
    let path = path.filter_map(|part| part.strip_suffix('}')).map(
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
    );
    let query =
        operation.query.iter().map(|parameter| reference("parameters", parameter.component));
    let headers = operation.headers.iter().map(|name| reference("parameters", name));
    let common = std::iter::once(reference("parameters", "X-Request-Id"));
    path.chain(query).chain(headers).chain(common).collect()
}

fn responses_of(route: &Route, operation: &Operation) -> Map<String, Value> {
    let mut responses = Map::new();
    for (status, schema) in operation.answers {
        let status = StatusCode::from_u16(*status).unwrap_or_default();
        let mut headers = Map::new();
        for name in ["X-Request-Id", "RateLimit", "RateLimit-Policy"] {
            headers.insert(name.to_owned(), reference("headers", name));
        }
        if operation.headers.contains(&"Idempotency-Key") {
            let name = "Idempotent-Replayed";
            headers.insert(name.to_owned(), reference("headers", name));
        }
        if status == StatusCode::CREATED {
            headers.insert("Location".to_owned(), reference("headers", "Location"));
        }
        let reason = status.canonical_reason().unwrap_or_default();
        let mut response = json!({"description": reason, "headers": headers});
        match *schema {
            "" => {}
            "EventStream" => {
                let text = json!({"schema": {"type": "string"}});
                response["content"] = json!({"text/event-stream": text});
            }
            "CustomerExport" => {
                let text = json!({"schema": {"type": "string"}});
                let whole = json!({"schema": reference("schemas", "CustomerExport")});
                response["content"] = json!({"application/json": whole, "text/csv": text});
            }
            name => {
                let schema = json!({"schema": reference("schemas", name)});
                response["content"] = json!({"application/json": schema});
            }
        }
        if let Some(path) = operation.makes {
            response["links"] = links(path).into();
        }
        responses.insert(status.as_str().to_owned(), response);
    }
    for status in problem_statuses(route, operation) {
        let name = format!("Problem{status}");
        responses.insert(status.to_string(), reference("responses", &name));
    }
    responses
}

/// What can be done with something that was just made: every operation at or below its path.
fn links(path: &str) -> Map<String, Value> {
    let about = routes().iter().filter(|route| route.path().starts_with(path));
    let links = about.filter_map(described).map(|operation| {
        let id = json!({"id": "$response.body#/id"});
        (operation.id.to_owned(), json!({"operationId": operation.id, "parameters": id}))
    });
    links.collect()
}

/// The statuses of the problems that a route may answer with.
fn problem_statuses(route: &Route, operation: &Operation) -> Vec<u16> {
    let is_protected = route.permission().is_some();
    let is_about_one =
        route.path().contains('{') || operation.query.iter().any(|parameter| parameter.is_required);
    let takes_body = operation.body.is_some() || operation.is_any_body;
    let changes = !route.method().is_safe();
    let table = [
        (true, &[400, 403, 429, 500, 503][..]),
        (is_protected, &[401]),
        (is_about_one, &[404]),
        (takes_body, &[413, 415]),
        (changes, &[409, 422]),
    ];
    let mut statuses: Vec<u16> = table
        .into_iter()
        .filter(|(applies, _)| *applies)
        .flat_map(|(_, own)| own.to_vec())
        .collect();
    statuses.sort_unstable();
    statuses
}

/// One answer for each status that a problem can have.
fn problems() -> Map<String, Value> {
    let mut responses = Map::new();
    for kind in ProblemKind::ALL {
        let status = kind.status();
        let same = ProblemKind::ALL.into_iter().filter(|other| other.status() == status);
        let titles: Vec<_> = same.map(ProblemKind::title).collect();
        let mut headers = json!({"X-Request-Id": reference("headers", "X-Request-Id")});
        if matches!(status.as_u16(), 409 | 429 | 503) {
            headers["Retry-After"] = reference("headers", "Retry-After");
        }
        let content =
            json!({"application/problem+json": {"schema": reference("schemas", "Problem")}});
        responses.insert(
            format!("Problem{}", status.as_u16()),
            json!({"description": titles.join("; "), "headers": headers, "content": content}),
        );
    }
    responses
}

/// What every kind of problem is called, for those who look at the schema.
fn problem_kinds() -> Vec<Value> {
    let kinds = ProblemKind::ALL.into_iter().map(|kind| {
        json!({
            "type": format!("{TYPE_BASE}{}", kind.slug()),
            "title": kind.title(),
            "status": kind.status().as_u16(),
            "description": kind.description(),
        })
    });
    kinds.collect()
}

fn webhooks() -> Map<String, Value> {
    let mut webhooks = Map::new();
    for kind in EventType::ALL {
        let schema = json!({
            "allOf": [reference("schemas", "Event")],
            "properties": {"type": {"const": kind.as_str()}},
        });
        let request = json!({
            "summary": kind.as_str(),
            "security": [],
            "requestBody": {"required": true, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "2XX": {"description": "Taken. Anything else is tried again."},
                "410": {"description": "The endpoint is gone, and is disabled."},
            },
        });
        webhooks.insert(kind.as_str().to_owned(), json!({ "post": request }));
    }
    webhooks
}

fn schemas() -> Map<String, Value> {
    let named = answers::schemas().into_iter().chain(bodies::schemas());
    named.map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn parameters() -> Map<String, Value> {
    let mut parameters = Map::new();
    for Parameter { component, name, schema, description, is_required } in PARAMETERS {
        let (schema, text) = (schema(), description);
        parameters.insert(
            (*component).to_owned(),
            json!({"name": name, "in": "query", "required": is_required, "schema": schema, "description": text}),
        );
    }
    for (name, schema, description) in operations::header_parameters() {
        let shown =
            json!({"name": name, "in": "header", "schema": schema, "description": description});
        parameters.insert(name.to_owned(), shown);
    }
    parameters
}

fn headers() -> Value {
    let text =
        |description: &str| json!({"description": description, "schema": {"type": "string"}});
    let whole =
        |description: &str| json!({"description": description, "schema": {"type": "integer"}});
    json!({
        "X-Request-Id": text("The caller's, if it was well-formed, or else ours; logs and the audit log have it too."),
        "RateLimit": text("What is left of which policy, and the seconds until there is more."),
        "RateLimit-Policy": text("The policy, its quota and its window in seconds."),
        "Retry-After": whole("Seconds until another try makes sense."),
        "Idempotent-Replayed": text("`true` when an earlier request with the same key did it."),
        "Location": text("The address of what was made."),
    })
}

fn reference(section: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{section}/{name}")})
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;

    #[test]
    fn every_route_is_described_once_and_nothing_else_is() {
        for route in routes() {
            let count = OPERATIONS.iter().filter(|operation| operation.describes(route)).count();
            assert_eq!(count, 1, "{} {} in openapi/operations.rs", route.method(), route.path());
        }
        assert_eq!(OPERATIONS.len(), routes().len());
        let ids = OPERATIONS.iter().map(|operation| operation.id);
        assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), OPERATIONS.len());
    }

    #[test]
    fn whatever_makes_or_changes_something_takes_a_key() {
        for route in routes().iter().filter(|route| route.permission().is_some()) {
            let takes = described(route).unwrap().headers.contains(&"Idempotency-Key");
            let is_change = matches!(*route.method(), Method::POST | Method::PATCH);
            assert_eq!(takes, is_change, "{} {}", route.method(), route.path());
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(&document(None)).unwrap();
        let mut open = vec![&document];
        let mut count = 0;
        while let Some(value) = open.pop() {
            if let Some(target) = value.get("$ref").and_then(Value::as_str) {
                let target = target.strip_prefix('#').unwrap();
                assert!(document.pointer(target).is_some(), "{target}");
                count += 1;
            }
            match value {
                Value::Object(members) => open.extend(members.values()),
                Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
        assert!(count > 200);
    }

    /// `PGW_WRITE_OPENAPI=1 cargo test -p pgw-http openapi` writes the file anew.
    #[test]
    fn the_file_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let document = document(None);
        if std::env::var_os("PGW_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &document).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap();
        assert!(file == document, "openapi.json is not up to date: PGW_WRITE_OPENAPI=1 writes it");
    }
}
