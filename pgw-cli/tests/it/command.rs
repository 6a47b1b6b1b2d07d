//! Runs the binary: commands to their end, servers until a test is done with them.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Its standard output, one JSON value on a line.
    pub(crate) fn json(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"));
        self.out.lines().map(line).collect()
    }

    /// Insists that it worked.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }
}

/// An environment to run commands in: nothing is inherited but where programs are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pgw {
    variables: Vec<(String, String)>,
}

impl Pgw {
    /// In memory.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// On a database of its own, migrated.
    pub(crate) fn on_postgres() -> Self {
        let pgw = Self::on_empty_postgres();
        pgw.run(&["migrate"]).ok();
        pgw
    }

    /// On a schema of its own, not migrated.
    pub(crate) fn on_empty_postgres() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let url = std::env::var("PGW_TEST_POSTGRES")
            .expect("run the tests under `servers`: scripts/test does");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let schema = format!("cli_{}_{number}", std::process::id());
        let generated = Self::new().run(&["crypto", "generate", "--json"]).ok().json().remove(0);
        let secret = |name: &str| generated[name].as_str().unwrap().to_owned();
        Self::new()
            .with("DATABASE_URL", &url)
            .with("PGW_SCHEMA", &schema)
            .with("PGW_API_KEY_PEPPER", &secret("PGW_API_KEY_PEPPER"))
            .with("PGW_ENCRYPTION_KEYS", &secret("PGW_ENCRYPTION_KEYS"))
    }

    /// With a variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable's value.
    pub(crate) fn variable(&self, name: &str) -> &str {
        &self.variables.iter().find(|(known, _)| known == name).expect("it was set").1
    }

    /// The command, not started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgw"));
        command.env_clear().args(args).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    /// Makes an API key on the database.
    pub(crate) fn key(&self, role: &str) -> String {
        let args = ["keys", "create", "--role", role, "--name", "test", "--json"];
        self.run(&args).ok().json()[0]["key"].as_str().unwrap().to_owned()
    }

    /// Starts a server, and waits until it says where it listens.
    pub(crate) fn serve(&self, args: &[&str]) -> Serving {
        let mut all = vec!["serve", "--port", "0"];
        all.extend(args);
        Serving::start(self.command(&all))
    }

    /// Starts a worker, and waits until it says that it works.
    pub(crate) fn work(&self) -> Serving {
        Serving::start(self.command(&["worker", "--port", "0"]))
    }
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    notes: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was built");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (log, notes) = (Arc::default(), Arc::default());
        let note = Arc::clone(&notes);
        let mut readers = vec![std::thread::spawn(move || copy(&mut stderr, &note))];
        let address = loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended: {}", notes.lock().unwrap());
            Mutex::<String>::lock(&log).unwrap().push_str(&line);
            let entry: Value = serde_json::from_str(&line).expect("logs are JSON");
            if entry["message"] == "serving" || entry["message"] == "working" {
                break entry["address"].as_str().unwrap().parse().unwrap();
            }
        };
        let kept = Arc::clone(&log);
        readers.push(std::thread::spawn(move || copy(&mut stdout, &kept)));
        Self { child, address, log, notes, readers }
    }

    /// The address of a path of the API.
    pub(crate) fn api(&self, path: &str) -> String {
        format!("http://{}/api{path}", self.address)
    }

    /// The address of a path at the root.
    pub(crate) fn root(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The key that a server in memory prints.
    pub(crate) fn first_key(&self) -> String {
        loop {
            let notes = self.notes.lock().unwrap().clone();
            if let Some(key) = notes.split_whitespace().find(|word| word.starts_with("pgw_test_")) {
                return key.to_owned();
            }
            std::thread::yield_now();
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Asks it to stop, and waits for its end: exit code, log and notes.
    pub(crate) fn stop(mut self) -> (Option<i32>, String, String) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let (log, notes) = (self.log.lock().unwrap().clone(), self.notes.lock().unwrap().clone());
        (status.code(), log, notes)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(from: &mut impl std::io::BufRead, to: &Mutex<String>) {
    let mut line = String::new();
    while from.read_line(&mut line).is_ok_and(|read| read > 0) {
        to.lock().unwrap().push_str(&line);
        line.clear();
    }
}

/// A client that trusts nothing of this machine's settings.
pub(crate) fn client() -> reqwest::Client {
    // The process's provider: the first test that asks installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}
