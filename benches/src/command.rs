//! The command itself, `pgw serve`, as a child of a benchmark.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running `pgw serve`. Dropping it ends it at once.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The binary, built beside the benchmark.
///
/// # Errors
/// It says how to build it.
pub fn binary() -> Result<PathBuf, Box<dyn Error>> {
    let path = std::env::current_exe()?.with_file_name("pgw");
    if path.is_file() {
        Ok(path)
    } else {
        Err("build the command first: cargo build --release -p pgw-cli".into())
    }
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// When it fails.
pub fn run(arguments: &[&str], variables: &[(String, String)]) -> Result<String, Box<dyn Error>> {
    let output = Command::new(binary()?)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().cloned())
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("pgw {}: {told}", arguments.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

impl Serving {
    /// Starts one on a free port, and waits until it says where it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Result<(Self, Option<String>), Box<dyn Error>> {
        let mut child = Command::new(binary()?)
            .args(["serve", "--port", "0"])
            .args(arguments)
            .env_clear()
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("it says nothing")?;
        let stderr = child.stderr.take().ok_or("it says nothing")?;
        let mut serving = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("\"serving\"")));
        let entry: serde_json::Value = serde_json::from_str(&line.ok_or("it ended early")??)?;
        serving.address = entry["address"].as_str().ok_or("it has no address")?.parse()?;
        // In memory it prints a key; on a database it prints none that it does not make.
        let mut notes = BufReader::new(stderr).lines().map_while(Result::ok);
        let has_key = !variables.iter().any(|(name, _)| name == "DATABASE_URL");
        let key = if has_key {
            notes.find_map(|line| {
                Some(line.trim().to_owned()).filter(|w| w.starts_with("pgw_test_"))
            })
        } else {
            None
        };
        // What else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        std::thread::spawn(move || notes.for_each(drop));
        Ok((serving, key))
    }

    /// Its resident memory now, in MiB (Linux).
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss_mib(&self) -> Result<f64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS line")?;
        Ok(kib.trim().parse::<f64>()? / 1_024.0)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may be gone by itself, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
