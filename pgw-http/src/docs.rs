//! `/docs`: the OpenAPI document as a page for people. It is made once, needs no script and loads nothing from elsewhere.

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

/// The page about a document of [`crate::openapi`].
pub(crate) fn page(document: &str) -> Bytes {
    let document =
        serde_json::from_str(document).expect("the document was written as JSON by this crate");
    Page { document: &document, html: String::new() }.write().into()
}

/// The page with its own content security policy, which lets its style sheet be.
pub(crate) fn answer(page: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, page).into_response()
}

struct Page<'a> {
    document: &'a Value,
    html: String,
}

impl<'a> Page<'a> {
    fn write(mut self) -> String {
        let document = self.document;
        let info = &document["info"];
        let version = text(&info["version"]);
        self.add(&[
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>pgw API ",
            &version,
            "</title><style>",
            STYLE,
            "</style><h1>pgw API <small>",
            &version,
            "</small></h1><p>For programs: <a href=\"openapi.json\">openapi.json</a>, OpenAPI 3.1.\
             <pre>",
            &text(&info["description"]),
            "</pre><h2>Requests</h2>",
        ]);
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods) {
                self.operation(path, method, operation);
            }
        }
        self.add(&["<h2>Webhooks</h2><ul>"]);
        for (name, _) in members(&document["webhooks"]) {
            self.add(&["<li><code>", &escape(name), "</code>"]);
        }
        self.add(&["</ul><h2>Problems</h2><dl>"]);
        let problems = &document["components"]["schemas"]["Problem"]["x-problem-types"];
        for problem in items(problems) {
            let (title, about) = (text(&problem["title"]), text(&problem["description"]));
            self.add(&["<dt>", &title, "<dd>", &about]);
        }
        self.add(&["</dl><h2>Schemas</h2>"]);
        for (name, schema) in members(&document["components"]["schemas"]) {
            let (name, schema) = (escape(name), escape(&format!("{schema:#}")));
            let head = ["<details id=\"", &name, "\"><summary><code>", &name];
            self.add(&head);
            self.add(&["</code></summary><pre>", &schema, "</pre></details>"]);
        }
        self.html
    }

    fn operation(&mut self, path: &str, method: &str, operation: &'a Value) {
        let (method, path) = (escape(&method.to_ascii_uppercase()), escape(path));
        let head = ["<details><summary><b>", &method, "</b> <code>", &path, "</code> "];
        self.add(&head);
        self.add(&[&text(&operation["summary"]), "</summary><ul><li>"]);
        let roles: Vec<_> = items(&operation["x-roles"]).map(text).collect();
        match roles.is_empty() {
            true => self.add(&["Needs no API key."]),
            false => self.add(&["Roles: ", &roles.join(", ")]),
        }
        for parameter in items(&operation["parameters"]) {
            let parameter = self.resolve(parameter);
            let (name, about) = (text(&parameter["name"]), text(&parameter["description"]));
            self.add(&["<li><code>", &name, "</code> in ", &text(&parameter["in"]), ". ", &about]);
        }
        if let Some(body) = schema_of(&operation["requestBody"]) {
            self.add(&["<li>Body: ", &body]);
        }
        for (status, response) in members(&operation["responses"]) {
            let response = self.resolve(response);
            let schema = schema_of(response).unwrap_or_default();
            let about = text(&response["description"]);
            self.add(&["<li><b>", &escape(status), "</b> ", &about, " ", &schema]);
        }
        self.add(&["</ul></details>"]);
    }

    /// What a reference leads to.
    fn resolve(&self, value: &'a Value) -> &'a Value {
        let target = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
        target.and_then(|target| self.document.pointer(target)).unwrap_or(value)
    }

    fn add(&mut self, html: &[&str]) {
        self.html.extend(html.iter().copied());
    }
}

/// A link to the schema of a body or an answer.
fn schema_of(value: &Value) -> Option<String> {
    let (_, media) = members(&value["content"]).next()?;
    let name = escape(media["schema"]["$ref"].as_str()?.rsplit('/').next()?);
    Some(format!("<a href=\"#{name}\">{name}</a>"))
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
                     padding:0 1rem;color-scheme:light dark}pre{white-space:pre-wrap}\
                     summary{cursor:pointer;padding:.2rem 0}small{font-weight:normal}";
/// Its own style sheet, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      frame-ancestors 'none'; form-action 'none'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::routes;

    #[test]
    fn the_page_shows_every_route_and_runs_nothing() {
        let page = page(&crate::openapi::document(Some("https://x.example/?a=\"<b>&")));
        let html = std::str::from_utf8(&page).unwrap();
        for route in routes() {
            assert!(html.contains(&format!("<code>{}</code>", route.path())), "{}", route.path());
        }
        assert!(!html.contains("<script") && !html.contains("http://") && !html.contains("src="));
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
