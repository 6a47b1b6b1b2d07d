//! A peer in a process of its own, asked by one line of JSON and answering by another.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::peer::{Headers, Letter, Peer, Verdict};

/// A running peer. It is stopped when this is dropped.
///
/// Its pipes belong to a thread, so that a peer that reads or writes no more can be waited for in bounded time. The thread ends with
/// the pipes, which end with the peer.
#[derive(Debug)]
pub(crate) struct Process {
    program: String,
    child: Child,
    requests: Sender<Vec<u8>>,
    answers: Receiver<Vec<u8>>,
}

impl Process {
    /// Starts a program of `peers/`.
    pub(crate) fn start(interpreter: &str, file: &str) -> Result<Self, Error> {
        let program = format!("{interpreter} {file}");
        let mut child = Command::new(interpreter)
            .arg(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/peers")).join(file))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Run { program: program.clone(), source })?;
        let stdin = child.stdin.take().expect("the standard input is a pipe");
        let stdout = child.stdout.take().expect("the standard output is a pipe");
        let (requests, asked) = channel();
        let (answered, answers) = channel();
        thread::spawn(move || converse(stdin, stdout, &asked, &answered));
        Ok(Self { program, child, requests, answers })
    }

    fn ask(&mut self, request: &Request<'_>) -> Result<Answer, Error> {
        let line = serde_json::to_vec(request).expect("a request holds texts and numbers only");
        // If the thread has ended, so has what it would answer to, and that is seen next.
        let _ = self.requests.send(line);
        let program = self.program.clone();
        match self.answers.recv_timeout(PATIENCE) {
            Ok(line) => {
                serde_json::from_slice(&line).map_err(|source| Error::Answer { program, source })
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stop();
                Err(Error::Silent { program, patience: PATIENCE })
            }
            Err(RecvTimeoutError::Disconnected) => {
                // It may have closed its output only.
                let _ = self.child.kill();
                let status = self.child.wait().map_err(|source| Error::Run { program, source })?;
                Err(Error::Ended { program: self.program.clone(), status })
            }
        }
    }

    fn stop(&mut self) {
        // Neither fails unless it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Peer for Process {
    fn sign(
        &mut self,
        library: &str,
        secrets: &[String],
        letter: &Letter<'_>,
    ) -> Result<Vec<String>, Error> {
        let task = Task::Sign { id: letter.id, sent: letter.sent.as_secs() };
        match self.ask(&Request { library, secrets, body: STANDARD.encode(letter.body), task })? {
            Answer::Signatures(signatures) if signatures.len() == secrets.len() => Ok(signatures),
            answer => Err(fault(answer)),
        }
    }

    fn verify(
        &mut self,
        library: &str,
        secrets: &[String],
        headers: &Headers,
        body: &[u8],
    ) -> Result<Vec<Verdict>, Error> {
        let task = Task::Verify { headers };
        match self.ask(&Request { library, secrets, body: STANDARD.encode(body), task })? {
            Answer::Verdicts(verdicts) if verdicts.len() == secrets.len() => Ok(verdicts),
            answer => Err(fault(answer)),
        }
    }
}

/// A line to a peer. The body is in base64, so that no JSON library on the way has a say in its bytes.
#[derive(Serialize)]
struct Request<'a> {
    library: &'a str,
    secrets: &'a [String],
    body: String,
    #[serde(flatten)]
    task: Task<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Task<'a> {
    Sign { id: &'a str, sent: i64 },
    Verify { headers: &'a Headers },
}

/// A line from a peer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Signatures(Vec<String>),
    Verdicts(Vec<Verdict>),
    Fault(String),
}

fn fault(answer: Answer) -> Error {
    match answer {
        Answer::Fault(why) => Error::Fault(why),
        other => Error::Fault(format!("it answered something else: {other:?}")),
    }
}

/// Passes requests and answers on until one side is gone.
fn converse(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    asked: &Receiver<Vec<u8>>,
    answered: &Sender<Vec<u8>>,
) {
    let mut stdout = BufReader::new(stdout);
    while let Ok(mut request) = asked.recv() {
        request.push(b'\n');
        if stdin.write_all(&request).is_err() {
            return;
        }
        let mut line = Vec::new();
        match stdout.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line) {
            // A line without an end is the peer's last.
            Ok(_) if line.last() != Some(&b'\n') && (line.len() as u64) < ANSWER_BYTES_MAX => {
                return;
            }
            Ok(_) if answered.send(line).is_ok() => {}
            _ => return,
        }
    }
}

/// The longest that a peer is waited for: far more than a start with a cold disk takes, which is a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest answer that is read: the longest are stack traces, and those have a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
