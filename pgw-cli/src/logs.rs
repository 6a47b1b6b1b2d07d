//! Logs: JSON on standard output, or into a file that is opened anew on SIGHUP; and, where they are built in, traces and reports to elsewhere.
//!
//! A server's lines are written by a thread of their own, those that wait in one go: whoever answers a request waits for no disk and no
//! reader. Lines that neither takes for long are dropped, and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Config, setting};
use crate::failure::{Exit, Failure};

/// Who logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// A server: everything the level asks for, where the settings say.
    Server,
    /// A command: what it prints is its result, so warnings go to standard error.
    Command,
}

/// Something that hears what happens.
pub(crate) type Listener = Box<dyn Layer<Registry> + Send + Sync>;

/// What logs and reports until the program ends. To be dropped outside the asynchronous runtime: it waits for what is on its way.
#[derive(Debug)]
#[must_use]
pub(crate) struct Logs {
    /// The file, to be opened anew.
    pub(crate) file: Option<LogFile>,
    /// How many lines were dropped, where a thread writes them.
    pub(crate) dropped: Option<ErrorCounter>,
    _lines: Option<Flush>,
    #[cfg(feature = "otel")]
    _traces: Option<crate::otel::Traces>,
    #[cfg(feature = "sentry")]
    _reports: Option<crate::sentry::Reports>,
}

/// Starts to log. Until the [`Logs`] are dropped, servers also send traces and reports where they are built in and set up.
///
/// # Errors
/// [`Failure`].
pub(crate) fn start(config: &Config, program: Program) -> Result<Logs, Failure> {
    let Lines { layer, file, dropped, guard } = lines(config, program)?;
    #[cfg_attr(
        not(any(feature = "otel", feature = "sentry")),
        expect(unused_mut, reason = "nothing is added")
    )]
    let mut listeners = vec![layer];
    let is_server = program == Program::Server;
    #[cfg(feature = "otel")]
    let traces = if is_server { crate::otel::Traces::start(config)? } else { None };
    #[cfg(feature = "otel")]
    listeners.extend(traces.iter().map(crate::otel::Traces::listener));
    #[cfg(feature = "sentry")]
    let reports = if is_server { crate::sentry::Reports::start(config)? } else { None };
    #[cfg(feature = "sentry")]
    if reports.is_some() {
        listeners.extend(crate::sentry::Reports::listeners());
    }
    tracing_subscriber::registry().with(listeners).init();
    for (setting, feature, is_built) in [
        (&setting::OTEL_ENDPOINT, "otel", cfg!(feature = "otel")),
        (&setting::SENTRY_DSN, "sentry", cfg!(feature = "sentry")),
    ] {
        if is_server && !is_built && config.value(setting).is_some() {
            tracing::warn!(
                setting = setting.key,
                feature,
                "this build does nothing with a setting"
            );
        }
    }
    Ok(Logs {
        file,
        dropped,
        _lines: guard.map(|guard| Flush(Some(guard))),
        #[cfg(feature = "otel")]
        _traces: traces,
        #[cfg(feature = "sentry")]
        _reports: reports,
    })
}

/// Writes what waits when it is dropped, within a moment: a reader that is stuck holds up no end either.
#[derive(Debug)]
struct Flush(Option<WorkerGuard>);

impl Drop for Flush {
    fn drop(&mut self) {
        let (tell, told) = mpsc::channel();
        let guard = self.0.take();
        // On a thread of its own, for the guard itself may have something to say on standard output.
        let flush = thread::Builder::new().spawn(move || {
            drop(guard);
            // An error means that nobody waits any more.
            let _ = tell.send(());
        });
        if flush.is_ok() {
            let _ = told.recv_timeout(FLUSH_MOST);
        }
    }
}

/// The log itself.
struct Lines {
    layer: Listener,
    file: Option<LogFile>,
    dropped: Option<ErrorCounter>,
    guard: Option<WorkerGuard>,
}

fn lines(config: &Config, program: Program) -> Result<Lines, Failure> {
    let level = match program {
        Program::Server => config.text(&setting::LOG_LEVEL).unwrap_or("info"),
        Program::Command => "warn",
    };
    let filter = EnvFilter::try_new(level).map_err(|_| {
        config.wrong(
            &setting::LOG_LEVEL,
            "must be error, warn, info, debug or trace, or a filter such as info,pgw_core=debug",
        )
    })?;
    let is_json = match config.text(&setting::LOG_FORMAT) {
        Some("json") | None => program == Program::Server,
        Some("text") => false,
        Some(_) => return Err(config.wrong(&setting::LOG_FORMAT, "must be json or text").into()),
    };
    let (writer, file, dropped, guard) = match program {
        Program::Server => {
            let (sink, file) = Sink::open(config.text(&setting::LOG_FILE))?;
            let sink = BufWriter::with_capacity(TOGETHER, sink);
            let lines = NonBlockingBuilder::default().lossy(true).thread_name("log");
            let (lines, guard) = lines.buffered_lines_limit(WAITING_MAX).finish(sink);
            let dropped = lines.error_counter();
            (BoxMakeWriter::new(lines), file, Some(dropped), Some(guard))
        }
        Program::Command => (BoxMakeWriter::new(io::stderr), None, None, None),
    };
    let layer = if is_json {
        // Not tracing-subscriber's own JSON, which reads and writes a span's fields anew for every line.
        let lines = json_subscriber::fmt::layer().with_writer(writer);
        lines.flatten_event(true).with_span_list(false).with_filter(filter).boxed()
    } else {
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
        lines.with_target(program == Program::Server).with_filter(filter).boxed()
    };
    Ok(Lines { layer, file, dropped, guard })
}

/// A log file's handle. The file itself is the writing thread's, so that nobody else waits for a disk.
#[derive(Debug, Clone)]
pub(crate) struct LogFile(Arc<AtomicBool>);

impl LogFile {
    /// Lets the log go on in a new file of the same name, after somebody moved the old one away. It keeps the old one when that fails.
    pub(crate) fn reopen(&self) {
        self.0.store(true, Ordering::Release);
        // The first line of the new file, for which it is opened.
        tracing::info!("the log file is opened anew");
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Where a server's lines go.
#[derive(Debug)]
enum Sink {
    Standard,
    File { path: PathBuf, file: File, is_stale: Arc<AtomicBool> },
}

impl Sink {
    fn open(path: Option<&str>) -> Result<(Self, Option<LogFile>), Failure> {
        let Some(path) = path.map(PathBuf::from) else { return Ok((Self::Standard, None)) };
        let file = append(&path).map_err(|error| {
            Failure::new(Exit::Usage, format!("cannot log to {}", path.display())).because(error)
        })?;
        let is_stale = Arc::new(AtomicBool::new(false));
        Ok((Self::File { path, file, is_stale: Arc::clone(&is_stale) }, Some(LogFile(is_stale))))
    }
}

impl Write for Sink {
    /// Payments go on when the log's disk is full or its reader has gone. A failure that was returned would be told on standard error, and
    /// where that is gone too, telling panics.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let _ = match self {
            Self::File { path, file, is_stale } => {
                if is_stale.swap(false, Ordering::Acquire) {
                    match append(path) {
                        Ok(new) => *file = new,
                        Err(error) => tracing::error!(%error, "the log file cannot be opened anew"),
                    }
                }
                file.write_all(lines)
            }
            Self::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(lines).and_then(|()| out.flush())
            }
        };
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long the end of a process waits for its last lines to be written.
const FLUSH_MOST: Duration = Duration::from_secs(2);
/// Bytes of lines that are written in one go.
const TOGETHER: usize = 64 * 1024;
/// Lines that wait for the log at most: a few seconds' worth of a busy server, and a few megabytes.
const WAITING_MAX: usize = 16_384;
