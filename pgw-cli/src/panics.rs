//! Panics: mistakes of ours, which go to the log like every other.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// From now on, a panic is a line of the log, instead of text among the lines of standard error. What it says is logged only where it is a
/// constant of the program: a text that was put together may hold the value that was at fault, which may be anybody's.
pub(crate) fn log() {
    std::panic::set_hook(Box::new(line));
}

fn line(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>().copied();
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        message = "a panic",
        says = message.unwrap_or("(put together; see the place)"),
        location,
        thread = thread.name(),
        backtrace,
    );
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_without_what_was_put_together() {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = json_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let before = std::panic::take_hook();
        log();
        with_default(lines, || {
            for email in ["ada@example.com", ""] {
                let caught = std::panic::catch_unwind(|| {
                    assert!(email.is_empty(), "{email} is at fault");
                    panic!("a constant");
                });
                assert!(caught.is_err());
            }
        });
        std::panic::set_hook(before);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for (line, says) in lines.iter().zip(["(put together; see the place)", "a constant"]) {
            assert_eq!((&line["level"], &line["fields"]["says"]), (&"ERROR".into(), &says.into()));
            assert!(line["fields"]["location"].as_str().unwrap().contains("panics.rs"), "{line}");
        }
        assert!(!text.contains("ada@"), "{text}");
    }
}
