//! What the processes log: errors are violations, and so is anything that belongs into no log.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Listens to every event of the thread it is set for. Clones share what they heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Logs(Arc<Mutex<Vec<(&'static str, String)>>>);

impl Logs {
    /// What was heard that must not be.
    pub(super) fn broken(&self) -> Vec<(&'static str, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at a text that somebody could log.
    pub(super) fn read(&self, text: &str) {
        if CANARIES.iter().any(|canary| text.contains(canary)) {
            self.note("no personal data and no secret in any error or log", text);
        }
    }

    fn note(&self, invariant: &'static str, text: &str) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The first few tell everything.
        if heard.len() < 8 {
            heard.push((invariant, text.to_owned()));
        }
    }
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && metadata.target().starts_with("pgw")
            && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.read(&text.0);
        if *event.metadata().level() == Level::ERROR {
            self.note("nothing is logged as an error: every fault has its way out", &text.0);
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").expect("writing to a String does not fail");
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut cause = Some(value);
        while let Some(error) = cause {
            write!(self.0, " {field}={error}").expect("writing to a String does not fail");
            cause = error.source();
        }
    }
}

/// In every customer's name and address, every description, every value of an endpoint's own headers, and every secret of an endpoint.
const CANARIES: [&str; 3] = ["canary", "Canary", "whsec_"];

/// In every value of an endpoint's own headers, and every secret of an endpoint.
pub(super) const SECRETS: [&str; 2] = ["canary-header", "whsec_"];
