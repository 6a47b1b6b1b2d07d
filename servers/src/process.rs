//! `Process`: a program of a server, with its log, from its start to the end of the last process it forked.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::error::ServerError;
use crate::log::Log;

/// A program that is our direct child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: Arc<Log>,
}

impl Process {
    /// Starts `command`. `ready` is what its log says when it is.
    pub(crate) fn spawn(
        name: &'static str,
        command: &mut Command,
        ready: Option<&'static str>,
    ) -> Result<Self, ServerError> {
        // Redis logs to standard output, the others to standard error.
        let (output, input) = io::pipe().map_err(ServerError::system("make a pipe"))?;
        let second = input.try_clone().map_err(ServerError::system("share a pipe"))?;
        let started = command.stdout(second).stderr(input).spawn();
        // The command has ends of the pipe too, and the log ends only when all of them are closed.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = started.map_err(|error| {
            // Another user may be refused the directory, and the system does not say which of the two it was.
            let directory = command.get_current_dir().unwrap_or(Path::new("."));
            ServerError::system(format!("start {name} in {}", directory.display()))(error)
        })?;
        let process = Self { name, child, log: Arc::default() };
        let log = Arc::clone(&process.log);
        // It reads for as long as the program lives: a full pipe would stop the program in the middle of a log line.
        thread::Builder::new()
            .name(format!("{name} log"))
            .spawn(move || log.drain(output, ready))
            .map_err(ServerError::system(format!("start a thread for the log of {name}")))?;
        Ok(process)
    }

    /// Waits until the program says that it is ready.
    pub(crate) fn wait_ready(&mut self, timeout: Duration) -> Result<(), ServerError> {
        if self.log.wait_ready(timeout) {
            return Ok(());
        }
        if self.log.has_ended() {
            let status = self.reap()?;
            return Err(ServerError::Ended { program: self.name, status, log: self.log.tail() });
        }
        self.kill()?;
        let (program, seconds) = (self.name, timeout.as_secs());
        Err(ServerError::NotReady { program, seconds, log: self.log.tail() })
    }

    /// Waits until the program has done its work.
    pub(crate) fn wait_success(&mut self, timeout: Duration) -> Result<(), ServerError> {
        self.wait_ended(timeout)?;
        let status = self.reap()?;
        if status.success() {
            return Ok(());
        }
        Err(ServerError::Ended { program: self.name, status, log: self.log.tail() })
    }

    /// Sends `signal` and waits for the end that it asks for. If that does not come in time, the program is killed,
    /// which is an error.
    pub(crate) fn stop(&mut self, signal: Signal, timeout: Duration) -> Result<(), ServerError> {
        self.send(signal)?;
        self.wait_ended(timeout)
    }

    /// Kills the program and its children with SIGKILL, and waits until all of them are gone.
    pub(crate) fn kill(&mut self) -> Result<(), ServerError> {
        let mut victims = Vec::new();
        if self.is_running()? {
            // While the program is stopped it can neither fork, nor notice that its children die, nor reap them: the
            // list is complete, and each number in it belongs to its process until all of them were sent the signal.
            self.send(Signal::STOP)?;
            let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(self.pid()), stopped)
                .map_err(ServerError::system(format!("wait for {} to be stopped", self.name)))?;
            let killed = kill_children(self.pid());
            // Whatever became of that, it must not stay stopped.
            self.send(Signal::KILL)?;
            victims = killed
                .map_err(ServerError::system(format!("kill the children of {}", self.name)))?;
        }
        if self.log.wait_ended(KILL_TIMEOUT) && victims.into_iter().all(wait_gone) {
            self.reap()?;
            return Ok(());
        }
        Err(self.not_stopped(KILL_TIMEOUT))
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Every process that the program forks holds the other end of the log's pipe, so the end of the log is the end of
    /// the last of them.
    fn wait_ended(&mut self, timeout: Duration) -> Result<(), ServerError> {
        if self.log.wait_ended(timeout) {
            self.reap()?;
            return Ok(());
        }
        self.kill()?;
        Err(self.not_stopped(timeout))
    }

    /// Only this process waits for the child, so its number is its own for as long as this says that it runs.
    pub(crate) fn is_running(&mut self) -> Result<bool, ServerError> {
        let status = self
            .child
            .try_wait()
            .map_err(ServerError::system(format!("ask for the state of {}", self.name)))?;
        Ok(status.is_none())
    }

    fn send(&mut self, signal: Signal) -> Result<(), ServerError> {
        if !self.is_running()? {
            return Ok(());
        }
        kill_process(self.pid(), signal)
            .map_err(ServerError::system(format!("send a signal to {}", self.name)))
    }

    fn reap(&mut self) -> Result<ExitStatus, ServerError> {
        self.child.wait().map_err(ServerError::system(format!("wait for {}", self.name)))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn not_stopped(&self, timeout: Duration) -> ServerError {
        let (program, seconds) = (self.name, timeout.as_secs());
        ServerError::NotStopped { program, seconds, log: self.log.tail() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.kill();
    }
}

/// Kills the children of a process that is stopped, and tells which they were.
fn kill_children(parent: Pid) -> io::Result<Vec<Pid>> {
    let children = children(parent)?;
    for &child in &children {
        // One that ended by itself is still there, as a zombie.
        kill_process(child, Signal::KILL)?;
    }
    Ok(children)
}

/// The children of `parent`, by the state of every process. It is readable where `/proc/<pid>/cwd` needs a capability
/// that root has not got in a container, and there where the kernel was built without
/// `/proc/<pid>/task/<tid>/children`.
fn children(parent: Pid) -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        // A process that ended since is no child of one that cannot reap.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if parent_in(&stat) == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// Waits until the kernel has done with a killed process. The log ends a moment before: a pipe is let go of on the way.
/// `false` if the time ran out.
fn wait_gone(pid: Pid) -> bool {
    let stat = format!("/proc/{pid}/stat");
    // One cannot wait for the child of another, but look again.
    (0..KILL_TIMEOUT.as_millis()).any(|_| {
        let gone = fs::read_to_string(&stat).map_or(true, |stat| is_dead(&stat));
        if !gone {
            thread::park_timeout(Duration::from_millis(1));
        }
        gone
    })
}

/// Whether a line of proc_pid_stat(5) is that of a process which only waits to be reaped.
fn is_dead(stat: &str) -> bool {
    fields(stat).next().is_none_or(|state| matches!(state, "Z" | "X"))
}

/// The parent in a line of proc_pid_stat(5).
fn parent_in(stat: &str) -> Option<Pid> {
    fields(stat).nth(1)?.parse().ok().and_then(Pid::from_raw)
}

/// What follows the name in a line of proc_pid_stat(5), `pid (name) state parent …`. The name may hold anything,
/// parentheses included.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace()
}

/// How long the kernel may take to end killed processes: that is a matter of milliseconds, unless the machine is
/// starved or a disk hangs.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_parent_are_read_behind_any_name() {
        assert!(is_dead("7 (a) S 1) Z 42 7 7 0") && !is_dead("7 (a) Z 1) S 42 7 7 0"));
        assert_eq!(parent_in("7 (a) R 1) S 42 7 7 0"), Pid::from_raw(42));
        assert_eq!(parent_in("1 (init) S 0 1 1 0"), None);
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn an_early_end_is_an_error_with_the_log() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no room >&2; exit 3"]);
        let mut process = Process::spawn("sh", &mut command, Some("ready")).expect("sh is there");
        let error = process.wait_ready(Duration::from_secs(60)).expect_err("it never says so");
        assert!(matches!(
            error,
            ServerError::Ended { status, log, .. } if status.code() == Some(3) && log == "no room"
        ));
    }

    #[test]
    fn a_kill_takes_the_children_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & sleep 600 & echo ready >&2; wait"]);
        let mut process = Process::spawn("sh", &mut command, Some("ready")).expect("sh is there");
        process.wait_ready(Duration::from_secs(60)).expect("it says so");
        assert_eq!(children(process.pid()).expect("/proc is there").len(), 2);
        process.kill().expect("the log ends, which it only does when all three are gone");
        assert!(!process.is_running().expect("it was waited for"));
    }
}
