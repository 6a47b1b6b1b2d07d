//! [`Reports`]: errors, and a share of the spans, to Sentry. Nothing of a person, of a request or of this machine goes there.

use sentry::ClientOptions;
use sentry::integrations::tracing::{ErrorLayer, SpanLayer};
use sentry::protocol::{Context, Event};
use sentry::types::Dsn;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;

use crate::config::{Config, setting};
use crate::failure::Failure;
use crate::logs::Listener;
use crate::tls;

/// Reports on their way; sent off when dropped.
pub(crate) struct Reports(
    #[expect(dead_code, reason = "it reports until it is dropped")] sentry::ClientInitGuard,
);

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reports")
    }
}

impl Reports {
    /// Starts to send them; `None` when nobody is to hear them.
    ///
    /// # Errors
    /// [`Failure`] when a setting is wrong; it holds nothing of the address, which is a secret.
    pub(crate) fn start(config: &Config) -> Result<Option<Self>, Failure> {
        let Some(dsn) = config.secret(&setting::SENTRY_DSN) else { return Ok(None) };
        let dsn: Dsn = dsn.expose().trim().parse().map_err(|_| {
            config.wrong(&setting::SENTRY_DSN, "must be https://<key>@<host>/<project>")
        })?;
        let rate = config.share(&setting::SENTRY_SAMPLE_RATE)?;
        tls::install();
        #[expect(clippy::cast_possible_truncation, reason = "a share needs no more digits")]
        let mut options = ClientOptions::new()
            .release(concat!("pgw@", env!("CARGO_PKG_VERSION")))
            .traces_sample_rate(rate as f32)
            .send_default_pii(false)
            .max_breadcrumbs(0)
            .before_send(|event| Some(scrubbed(event)));
        if let Some(name) = config.text(&setting::ENVIRONMENT) {
            options = options.environment(name.to_owned());
        }
        options.dsn = Some(dsn);
        Ok(Some(Self(sentry::init(options))))
    }

    /// What hears errors and spans of ours, once it has started: there is one for the process.
    pub(crate) fn listeners() -> [Listener; 2] {
        // What libraries say may be about anybody, and is not for elsewhere.
        let ours = |level| Targets::new().with_target("pgw", level);
        [
            SpanLayer::new().with_filter(ours(LevelFilter::INFO)).boxed(),
            ErrorLayer::new().with_filter(ours(LevelFilter::ERROR)).boxed(),
        ]
    }
}

/// An event with what says where to look, and without what may be about anybody: of fields only those that are ours and never personal, of
/// errors their types without their texts. The log has the rest, under the same request or job.
fn scrubbed(mut event: Event<'static>) -> Event<'static> {
    event.user = None;
    event.request = None;
    event.server_name = None;
    event.breadcrumbs = Vec::new().into();
    event.extra.clear();
    event.tags.clear();
    event.contexts.retain(|name, _| KEPT_CONTEXTS.contains(&name.as_str()));
    for context in event.contexts.values_mut() {
        if let Context::Other(fields) = context {
            fields.retain(|name, _| KEPT_FIELDS.contains(&name.as_str()));
        }
    }
    for exception in &mut event.exception.values {
        exception.value = None;
    }
    event
}

/// Fields of the event, and the span that it was in.
const KEPT_CONTEXTS: [&str; 2] = ["Rust Tracing Fields", "trace"];
/// What lines of ours say of where they are from, none of it personal.
const KEPT_FIELDS: [&str; 8] =
    ["claims", "job", "kind", "location", "operation", "payment", "says", "status"];

#[cfg(test)]
mod tests {
    use sentry::protocol::{Exception, Map, Request, User};

    use super::*;

    #[test]
    fn nothing_personal_is_left() {
        let mut fields = Map::new();
        fields.insert("email".to_owned(), "ada@example.com".into());
        fields.insert("operation".to_owned(), "op_1".into());
        let event = Event {
            message: Some("a request failed".to_owned()),
            user: Some(User { email: Some("ada@example.com".to_owned()), ..User::default() }),
            request: Some(Request {
                data: Some("ada@example.com".to_owned()),
                ..Request::default()
            }),
            server_name: Some("ada-laptop".into()),
            contexts: Map::from([("Rust Tracing Fields".to_owned(), Context::Other(fields))]),
            exception: vec![Exception {
                ty: "StorageError".to_owned(),
                value: Some("ada@example.com".to_owned()),
                ..Exception::default()
            }]
            .into(),
            ..Event::default()
        };
        let shown = format!("{:?}", scrubbed(event));
        // Not "ada", which is three digits that the event's id may have.
        assert!(!shown.contains("ada@") && !shown.contains("ada-laptop"), "{shown}");
        for kept in ["a request failed", "StorageError", "op_1"] {
            assert!(shown.contains(kept), "{kept} in {shown}");
        }
    }
}
