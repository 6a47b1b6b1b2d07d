//! Worker processes: started, killed, stopped. None is left behind.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pgw_core::queue::Lane;
use tokio::sync::Notify;

use crate::worker::Spec;

/// Workers that are alike, by number. Dropping this kills them; they end by themselves when this process does, however it does.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    spec: Spec,
    number: u32,
    running: BTreeMap<u32, (Option<Lane>, Child)>,
    /// Rung when one of them found nothing to do.
    pub idle: Arc<Notify>,
}

impl Workers {
    /// None yet. `program` is the program `worker`.
    pub fn new(program: impl Into<PathBuf>, spec: Spec) -> Self {
        let (running, idle) = (BTreeMap::new(), Arc::default());
        Self { program: program.into(), spec, number: 0, running, idle }
    }

    /// Starts one for this lane, or for all.
    ///
    /// # Errors
    /// When the system gives no process.
    pub fn start(&mut self, lane: Option<Lane>) -> Result<(), Box<dyn Error>> {
        self.number += 1;
        let mut spec = Spec { lane, ..self.spec.clone() };
        if let Some(wire) = &mut spec.bank {
            wire.worker = self.number;
        }
        let mut child = Command::new(&self.program)
            .args(spec.arguments())
            // Its end tells the worker to stop.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let says = BufReader::new(child.stdout.take().ok_or("the worker says nothing")?);
        let idle = Arc::clone(&self.idle);
        // It ends with the worker.
        std::thread::spawn(move || {
            says.lines().map_while(Result::ok).for_each(|_| idle.notify_one())
        });
        self.running.insert(self.number, (lane, child));
        Ok(())
    }

    /// Whether the worker of this number was started and not killed.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.running.contains_key(&number)
    }

    /// Kills one with SIGKILL.
    ///
    /// # Errors
    /// When there is none of this number, or it had ended by itself.
    pub fn kill(&mut self, number: u32) -> Result<(), Box<dyn Error>> {
        let (_, mut child) = self.running.remove(&number).ok_or("there is no such worker")?;
        child.kill()?;
        let status = child.wait()?;
        match status.signal() {
            Some(SIGKILL) => Ok(()),
            _ => Err(format!("worker {number} ended by itself: {status}").into()),
        }
    }

    /// Kills one of this lane, whichever the number picks.
    ///
    /// # Errors
    /// When there is none, or it had ended by itself.
    pub fn kill_one(&mut self, lane: Option<Lane>, pick: u64) -> Result<(), Box<dyn Error>> {
        let of_lane = self.running.iter().filter(|(_, (of, _))| *of == lane);
        let numbers: Vec<u32> = of_lane.map(|(number, _)| *number).collect();
        let number = pick.checked_rem(numbers.len() as u64).ok_or("there is no such worker")?;
        self.kill(numbers[usize::try_from(number)?])
    }

    /// Stops all in good order.
    ///
    /// # Errors
    /// When one of them ends in another way.
    pub fn stop(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some((number, (_, mut child))) = self.running.pop_first() {
            drop(child.stdin.take());
            let status = child.wait()?;
            if !status.success() {
                return Err(format!("worker {number}: {status}").into());
            }
        }
        Ok(())
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
