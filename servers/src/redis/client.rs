//! What the servers are asked and told here, through `redis-cli`.

use std::time::Duration;

use crate::error::ServerError;
use crate::process::Process;
use crate::program;

use super::Redis;

impl Redis {
    /// The answer to a command, of which the last 200 lines count. What Redis answers with an error is
    /// [`ServerError::Ended`].
    pub(super) fn ask(&self, command: &[&str]) -> Result<String, ServerError> {
        let mut client = self.account.command(&program::redis_cli()?, self.directory());
        // `-e`: an error ends it with a status of its own.
        client.arg("-e").arg("-s").arg(self.socket());
        if let Some(name) = self.login.name() {
            client.args(["--user", name]);
        }
        if let Some(password) = self.login.password() {
            client.env("REDISCLI_AUTH", password);
        }
        let mut client = Process::spawn("redis-cli", client.args(command), None)?;
        client.wait_success(ANSWER_TIMEOUT)?;
        Ok(client.log().tail())
    }

    /// Whether an answer of lines `field:value` has the value; else the answer.
    pub(super) fn field(
        &self,
        command: &[&str],
        field: &str,
        value: &str,
    ) -> Result<Result<(), String>, ServerError> {
        let answer = self.ask(command)?;
        let wanted = format!("{field}:{value}");
        Ok(if answer.lines().any(|line| line == wanted) { Ok(()) } else { Err(answer) })
    }

    pub(super) fn is_running(&mut self) -> Result<bool, ServerError> {
        self.process.is_running()
    }
}

/// Every question here is answered at once; this is for a starved machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
