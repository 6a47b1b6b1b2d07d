//! The servers' processes, by their numbers.

use std::fs;

/// Those of the processes that still run.
pub(crate) fn alive(pids: &[String]) -> Vec<&str> {
    let runs = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // An orphan that has ended is the init process's to reap, whenever that comes to it.
        stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
    };
    pids.iter().map(String::as_str).filter(runs).collect()
}
