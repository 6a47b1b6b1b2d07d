//! Worker processes: started, killed, stopped. None is left behind.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgw_core::queue::Lane;
use tokio::sync::Notify;

/// The workers of one database, by number. Dropping this kills them; they end by themselves when this process does, however it does.
#[derive(Debug)]
pub(crate) struct Workers {
    url: String,
    webhook_timeout: Duration,
    number: u32,
    running: BTreeMap<u32, (Lane, Child)>,
    /// Rung when one of them found nothing to do.
    pub(crate) idle: Arc<Notify>,
}

impl Workers {
    pub(crate) fn new(url: String, webhook_timeout: Duration) -> Self {
        let idle = Arc::default();
        Self { url, webhook_timeout, number: 0, running: BTreeMap::new(), idle }
    }

    pub(crate) fn start(&mut self, lane: Lane) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_worker"))
            .args([&self.url, &benches::worker::name(lane)])
            .arg(self.webhook_timeout.as_millis().to_string())
            // Its end tells the worker to stop.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the system gives processes");
        let says = BufReader::new(child.stdout.take().expect("it was asked for"));
        let idle = Arc::clone(&self.idle);
        // It ends with the worker.
        std::thread::spawn(move || {
            for line in says.lines() {
                assert_eq!(line.expect("a worker says text"), "idle");
                idle.notify_one();
            }
        });
        self.number += 1;
        self.running.insert(self.number, (lane, child));
    }

    /// Kills one of those that deliver, whichever the number picks.
    pub(crate) fn kill_one(&mut self, pick: u64) {
        let deliver = self.running.iter().filter(|(_, (lane, _))| *lane == Lane::Deliveries);
        let numbers: Vec<u32> = deliver.map(|(number, _)| *number).collect();
        let number = numbers[usize::try_from(pick).expect("64 bits") % numbers.len()];
        let (_, mut child) = self.running.remove(&number).expect("it was just there");
        child.kill().expect("it is ours");
        let status = child.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(SIGKILL), "worker {number} ended by itself: {status}");
    }

    /// Stops all in good order.
    pub(crate) fn stop(&mut self) {
        while let Some((number, (_, mut child))) = self.running.pop_first() {
            drop(child.stdin.take());
            let status = child.wait().expect("it is ours");
            assert!(status.success(), "worker {number}: {status}");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (_, child) in self.running.values_mut() {
            // There is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const SIGKILL: i32 = 9;
