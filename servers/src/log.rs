//! `Log`: what a program writes to its standard output and error, and what can be told from it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The last lines of a program's log, and how far the program has come.
#[derive(Debug, Default)]
pub(crate) struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    ready: bool,
    ended: bool,
}

impl Log {
    /// Reads until nobody can write any more. `ready` is what the program says when it is.
    pub(crate) fn drain(&self, output: impl Read, ready: Option<&str>) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // An error other than the end is not to be expected of a pipe, and would leave nothing else to do.
        while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let kept = line.trim_ascii_end();
            self.push(&String::from_utf8_lossy(&kept[..kept.len().min(LINE_BYTES_MAX)]), ready);
            line.clear();
        }
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Waits until the program is ready. `false` if it ended before, or the time ran out.
    pub(crate) fn wait_ready(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.ready || state.ended).ready
    }

    /// Waits until the program and all processes it forked have ended. `false` if the time ran out.
    pub(crate) fn wait_ended(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.ended).ended
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    pub(crate) fn tail(&self) -> String {
        Vec::from(self.state().lines.clone()).join("\n")
    }

    fn push(&self, line: &str, ready: Option<&str>) {
        let mut state = self.state();
        if state.lines.len() == LINES_MAX {
            state.lines.pop_front();
        }
        state.lines.push_back(line.to_owned());
        if ready.is_some_and(|ready| line.contains(ready)) {
            state.ready = true;
            self.changed.notify_all();
        }
    }

    fn wait(&self, timeout: Duration, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(self.state(), timeout, |state| !until(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Every change is one assignment or one push, so a panic while it was locked left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines are kept: the story of a failed start with room to spare.
const LINES_MAX: usize = 200;
/// How much of a line is kept. PostgreSQL repeats a failed statement in full, however long it is.
const LINE_BYTES_MAX: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let log = Log::default();
        let text: String = (0..500).map(|line| format!("line {line}\n")).collect();
        log.drain(text.as_bytes(), Some("line 499"));
        assert!(log.wait_ready(Duration::ZERO) && log.wait_ended(Duration::ZERO));
        let tail = log.tail();
        assert_eq!(tail.lines().count(), LINES_MAX);
        assert_eq!(tail.lines().next(), Some("line 300"));
    }

    #[test]
    fn an_end_before_the_program_is_ready_is_told_apart() {
        let log = Log::default();
        log.drain(&b"FATAL: \xff"[..], Some("ready"));
        assert!(!log.wait_ready(Duration::from_secs(60)));
        assert!(log.has_ended());
        assert_eq!(log.tail(), "FATAL: \u{fffd}");
    }
}
