//! Waiting for what nobody reports, by asking again.

use std::thread;
use std::time::Duration;

use crate::error::ServerError;

/// Asks until the answer is `Ok`. `Err` of the answer says how far things are, for the error if the time runs out: that
/// is after half a minute, and what the asking itself took.
pub(crate) fn until<T>(
    program: &'static str,
    mut ask: impl FnMut() -> Result<Result<T, String>, ServerError>,
) -> Result<T, ServerError> {
    let mut log = String::new();
    for _ in 0..TRIES_MAX {
        match ask()? {
            Ok(answer) => return Ok(answer),
            Err(state) => log = state,
        }
        thread::park_timeout(PAUSE);
    }
    let seconds = (PAUSE * TRIES_MAX).as_secs();
    Err(ServerError::NotReady { program, seconds, log })
}

/// Short beside what is waited for, which takes seconds.
const PAUSE: Duration = Duration::from_millis(25);
/// Half a minute, several times what the slowest of it takes.
const TRIES_MAX: u32 = 1_200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_until_there_is_an_answer() {
        let mut asked = 0;
        let answer = until("test", || {
            asked += 1;
            Ok(if asked == 3 { Ok(asked) } else { Err(format!("asked {asked} times")) })
        });
        assert_eq!(answer.expect("there is one"), 3);
    }

    #[test]
    fn who_cannot_be_asked_is_not_asked_again() {
        let mut asked = 0;
        let error = until("test", || {
            asked += 1;
            Err::<Result<(), _>, _>(ServerError::NotInstalled("test"))
        });
        assert!(matches!(error, Err(ServerError::NotInstalled("test"))));
        assert_eq!(asked, 1);
    }
}
