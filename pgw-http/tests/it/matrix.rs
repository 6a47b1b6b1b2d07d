//! Every route of the table × every way in which a request can be wrong whatever it asks for. Callers are in `permissions.rs`;
//! a new route is covered without a line here.

use axum::http::{Method, StatusCode};
use pgw_core::access::Role;
use pgw_http::Route;

use crate::harness::{App, Ask, Reply};
use crate::permissions::{Ids, body, protected, rows};

/// What no answer may show.
const MARKER: &str = "7777";

/// Objects for the routes to be about.
struct Bed {
    app: App,
    ids: Ids,
}

impl Bed {
    async fn new() -> Self {
        let app = App::new().await;
        let ids = Ids::new(&app).await;
        Self { app, ids }
    }

    /// As an admin, so that nothing but what is wrong with it is in its way.
    fn ask(&self, route: &Route, query: &str, body: impl Into<axum::body::Bytes>) -> Ask<'_> {
        let path = format!("{}{query}", self.ids.path(route));
        self.app.ask(route.method().clone(), &path).json(body)
    }

    /// Asks, and asserts that nothing changed and nothing is echoed.
    async fn refused(&self, ask: Ask<'_>) -> Reply {
        let before = rows(&self.app);
        let reply = ask.with("x-request-id", "rq").await_reply().await;
        assert!(rows(&self.app) == before, "it changed something: {reply:?}");
        let shown = String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(!shown.contains(MARKER) && !shown.contains("1111"), "it echoes: {shown}");
        reply
    }

    /// Asserts that the body is at fault, and how.
    async fn fault(&self, route: &Route, body: Vec<u8>, path: &str, code: &str) {
        let reply = self.refused(self.ask(route, "", body)).await;
        let errors = reply.problem(400, "Validation failed");
        let expected = (path.to_owned(), "body".to_owned(), code.to_owned());
        assert_eq!(errors, [expected], "{route:?} {reply:?}");
    }
}

/// Routes that read a JSON body.
fn reading() -> impl Iterator<Item = &'static Route> {
    protected().filter(|route| [Method::POST, Method::PATCH].contains(route.method()))
}

/// A valid body, with one more member.
fn with_member(route: &Route, member: &str) -> Vec<u8> {
    let valid = body(route);
    let members = &valid[1..valid.len() - 1];
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{{members}{comma}{member}}}").into_bytes()
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_not_json_objects() {
    let bed = Bed::new().await;
    for route in reading() {
        for (body, code) in [
            (&b"{\"a\":"[..], "malformed"),
            (b"{} 7777", "malformed"),
            (b"{'a':7777}", "malformed"),
            (b"[7777]", "invalid_type"),
            (b"\"7777\"", "invalid_type"),
            (b"7777", "invalid_type"),
            (b"null", "invalid_type"),
            (b"{\"description\":\"\xff7777\"}", "invalid_utf8"),
        ] {
            bed.fault(route, body.to_vec(), "", code).await;
        }
        let deep = [vec![b'['; 30_000], vec![b']'; 30_000]].concat();
        let reply = bed.refused(bed.ask(route, "", deep)).await;
        reply.problem(400, "Validation failed");
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_nobody_knows_or_that_come_twice() {
    let bed = Bed::new().await;
    for route in reading() {
        bed.fault(route, with_member(route, "\"zzz\":7777"), "zzz", "unknown").await;
        bed.fault(route, with_member(route, "\"4111111111111111\":1"), "", "unknown").await;
        bed.fault(route, with_member(route, "\"<b>7777\":1"), "", "unknown").await;
        let twice = bed.ask(route, "", with_member(route, "\"zzz\":1,\"zzz\":2"));
        let errors = bed.refused(twice).await.problem(400, "Validation failed");
        assert_eq!(errors[0].2, "duplicate", "{route:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_of_another_type_or_size() {
    let bed = Bed::new().await;
    for route in reading() {
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "text/json", ""] {
            let ask = bed.ask(route, "", body(route)).with("content-type", content_type);
            bed.refused(ask).await.problem(415, "Unsupported media type");
        }
        let unnamed = bed.ask(route, "", body(route)).without("content-type");
        bed.refused(unnamed).await.problem(415, "Unsupported media type");
        let mut huge = body(route);
        huge.push_str(&" ".repeat(64 * 1024));
        bed.refused(bed.ask(route, "", huge)).await.problem(413, "Body too large");
    }
    let open = pgw_http::routes().iter().filter(|route| route.permission().is_none());
    for route in open {
        let huge = "7".repeat(64 * 1024 + 1);
        let reply = bed.refused(bed.ask(route, "", huge).without("x-api-key")).await;
        assert!([404, 413].contains(&reply.status.as_u16()), "{route:?} {reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn parameters_that_nobody_knows_or_that_come_twice() {
    let bed = Bed::new().await;
    for route in protected() {
        for (query, code) in [("?zzz=7777", "unknown"), ("?zzz=7777&zzz=1", "duplicate")] {
            let reply = bed.refused(bed.ask(route, query, body(route))).await;
            let errors = reply.problem(400, "Validation failed");
            let expected = (String::new(), "query".to_owned(), code.to_owned());
            assert!(errors.contains(&expected), "{route:?} {reply:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn methods_that_are_not_in_the_table() {
    let bed = Bed::new().await;
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
    for route in pgw_http::routes() {
        let own = pgw_http::routes().iter().filter(|other| other.path() == route.path());
        let mut own: Vec<_> = own.map(|route| route.method().as_str()).collect();
        if own.contains(&"GET") {
            own.push("HEAD");
        }
        own.sort_unstable();
        for method in known.into_iter().filter(|method| !own.contains(method)) {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let ask = bed.app.ask(method.clone(), &bed.ids.path(route)).json("{}");
            for ask in [ask.clone(), ask.without("x-api-key")] {
                let reply = bed.refused(ask).await;
                match method == Method::HEAD {
                    true => assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED),
                    false => assert!(reply.problem(405, "Method not allowed").is_empty()),
                }
                let mut allow: Vec<_> = reply.header("allow").unwrap().split(',').collect();
                allow.sort_unstable();
                assert_eq!(allow, own, "{method} {}", route.path());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn heads_have_no_body_and_ask_for_the_same_permission() {
    let bed = Bed::new().await;
    for route in protected().filter(|route| route.method() == Method::GET) {
        // A stream has no end.
        if route.path() == "/events/stream" {
            continue;
        }
        let path = bed.ids.path(route);
        let head = || bed.app.ask(Method::HEAD, &path);
        let without = head().without("x-api-key").await_reply().await;
        assert_eq!((without.status, without.body.len()), (StatusCode::UNAUTHORIZED, 0));
        let (reply, whole) = (head().await_reply().await, bed.app.get(&path).await_reply().await);
        assert_eq!((reply.status, reply.body.len()), (whole.status, 0), "{route:?}");
        for role in Role::ALL.into_iter().filter(|role| !role.may(route.permission().unwrap())) {
            let reply = head().with("x-api-key", bed.app.key(role)).await_reply().await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{role:?} {route:?}");
        }
    }
}
