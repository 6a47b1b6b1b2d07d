//! [`Failures`]: who tried which key in vain. It stops the guessing of a key whose prefix is known before storage is
//! asked, whether or not there are rate limits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgw_core::access::KeyPrefix;
use pgw_core::timestamp::Timestamp;

/// Who tries a key: the part that it is found by, and the address it is tried from.
pub(crate) type Try = (KeyPrefix, Option<IpAddr>);

/// Failed tries of the last minute, in this process.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<BTreeMap<Try, Streak>>);

#[derive(Debug, Clone, Copy)]
struct Streak {
    began: Timestamp,
    count: u32,
}

impl Streak {
    /// How much of its minute is left; none once it is over, or when the clock was put back.
    fn left(&self, now: Timestamp) -> Option<Duration> {
        let end = self.began.plus(WINDOW);
        (self.began <= now && now < end).then(|| end.since(now))
    }
}

impl Failures {
    /// How long a further try has to wait, if it has to.
    pub(crate) fn wait(&self, tried: &Try, now: Timestamp) -> Option<Duration> {
        let streaks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streaks.get(tried).filter(|streak| streak.count >= FAILURES_MAX)?.left(now)
    }

    /// Counts one. When everything that can be remembered is of this minute, it is not counted: each further one
    /// was a failed request as well, which the rate limits count.
    pub(crate) fn record(&self, tried: Try, now: Timestamp) {
        let mut streaks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streak) = streaks.get_mut(&tried)
            && streak.left(now).is_some()
        {
            streak.count = streak.count.saturating_add(1);
            return;
        }
        if streaks.len() >= REMEMBERED_MAX {
            streaks.retain(|_, streak| streak.left(now).is_some());
        }
        if streaks.len() < REMEMBERED_MAX || streaks.contains_key(&tried) {
            streaks.insert(tried, Streak { began: now, count: 1 });
        }
    }
}

/// More than a person who mistypes needs, and far too few to guess 256 bits.
const FAILURES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Under a megabyte.
const REMEMBERED_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(prefix: usize) -> Try {
        (KeyPrefix::parse(&format!("{prefix:012}")).unwrap(), None)
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn ten_failures_in_a_minute_are_enough() {
        let failures = Failures::default();
        for n in 0..10 {
            assert_eq!(failures.wait(&tried(1), at(n)), None);
            failures.record(tried(1), at(n));
        }
        assert_eq!(failures.wait(&tried(1), at(10)), Some(Duration::from_secs(50)));
        assert_eq!(failures.wait(&tried(2), at(10)), None);
        assert_eq!(failures.wait(&tried(1), at(60)), None);
        failures.record(tried(1), at(60));
        assert_eq!(failures.wait(&tried(1), at(60)), None, "it starts anew");
    }

    #[test]
    fn memory_is_bounded_and_old_streaks_make_room() {
        let failures = Failures::default();
        for n in 0..REMEMBERED_MAX + 10 {
            failures.record(tried(n), at(0));
        }
        assert_eq!(failures.0.lock().unwrap().len(), REMEMBERED_MAX);
        failures.record(tried(REMEMBERED_MAX + 10), at(61));
        assert_eq!(failures.0.lock().unwrap().len(), 1);
    }
}
