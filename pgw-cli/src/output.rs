//! What commands print: tables for people, JSON for programs, progress on long work for whoever watches.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// How a command talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text in columns.
    Text,
    /// One JSON value on a line, or one for each row.
    Json,
}

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// A line for people; nothing where programs read.
    pub(crate) fn say(self, text: impl AsRef<str>) {
        if self.format == Format::Text {
            line(text.as_ref());
        }
    }

    /// A line on standard error: warnings and hints, whoever reads standard output.
    #[expect(clippy::unused_self, reason = "whoever has a result to tell has its hints to tell")]
    pub(crate) fn note(self, text: impl AsRef<str>) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "pgw: {}", text.as_ref());
    }

    /// A result: the value for programs, `text` for people.
    pub(crate) fn result(self, value: &Value, text: impl FnOnce() -> String) {
        match self.format {
            Format::Json => line(&value.to_string()),
            Format::Text => line(&text()),
        }
    }

    /// Objects as the HTTP API shows them: a line of JSON each, or a table of some of their members.
    ///
    /// # Errors
    /// An object that is no JSON, which would be a mistake in the gateway.
    pub(crate) fn objects<B: AsRef<[u8]>>(
        self,
        objects: impl IntoIterator<Item = B>,
        members: &[&str],
    ) -> Result<(), Failure> {
        let mut rows = vec![members.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()];
        for object in objects {
            let value: Value = serde_json::from_slice(object.as_ref()).map_err(|error| {
                Failure::new(crate::failure::Exit::Failed, "an object is not JSON").because(error)
            })?;
            match self.format {
                Format::Json => line(&value.to_string()),
                Format::Text => rows.push(members.iter().map(|name| cell(&value[*name])).collect()),
            }
        }
        if self.format == Format::Text {
            if rows.len() == 1 {
                line("(none)");
            } else {
                table(&rows);
            }
        }
        Ok(())
    }

    /// A bar for work of known length, or a counter for one of unknown. Silent unless a person watches standard error.
    pub(crate) fn progress(self, what: &'static str, of: Option<u64>) -> ProgressBar {
        if self.format == Format::Json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(of, ProgressDrawTarget::stderr());
        let template = match of {
            Some(_) => "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
            None => "{spinner} {msg} {human_pos} ({per_sec})",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Columns as wide as their widest cell, two spaces apart.
fn table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A member as a cell. Control characters cannot move the cursor of whoever reads it.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A reader that went away (`pgw … | head`) ends the command quietly, as it ends other filters.
fn line(text: &str) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}
