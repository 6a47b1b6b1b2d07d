//! [`Failures`]: who tried which key in vain. It stops the guessing of a key whose prefix is known before storage is
//! asked, whether or not there are rate limits.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgw_core::access::KeyPrefix;
use pgw_core::timestamp::Timestamp;

/// Who tries a key: the part that it is found by, and the address it is tried from.
pub(crate) type Try = (KeyPrefix, IpAddr);

/// Failed tries of the last minute, in this process.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    streaks: BTreeMap<Try, Streak>,
    /// Each streak in the order they began, so that the ones that are over are found without looking at the others.
    begun: VecDeque<(Timestamp, Try)>,
}

impl Remembered {
    /// Forgets what is over.
    fn forget(&mut self, now: Timestamp) {
        while let Some((began, tried)) = self.begun.front()
            && (Streak { began: *began, count: 0 }).left(now).is_none()
        {
            // It may have begun anew, which stands further behind.
            if self.streaks.get(tried).is_some_and(|streak| streak.began == *began) {
                self.streaks.remove(tried);
            }
            self.begun.pop_front();
        }
    }
}

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
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.streaks.get(tried).filter(|streak| streak.count >= FAILURES_MAX)?.left(now)
    }

    /// Counts one. When everything that can be remembered is of this minute, it is not counted: each further one
    /// was a failed request as well, which the rate limits count.
    pub(crate) fn record(&self, tried: Try, now: Timestamp) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.forget(now);
        if let Some(streak) = remembered.streaks.get_mut(&tried)
            && streak.left(now).is_some()
        {
            streak.count = streak.count.saturating_add(1);
        } else if remembered.begun.len() < REMEMBERED_MAX {
            remembered.streaks.insert(tried, Streak { began: now, count: 1 });
            remembered.begun.push_back((now, tried));
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
        (KeyPrefix::parse(&format!("{prefix:012}")).unwrap(), IpAddr::from([192, 0, 2, 1]))
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
        let remembered = |failures: &Failures| {
            let remembered = failures.0.lock().unwrap();
            (remembered.streaks.len(), remembered.begun.len())
        };
        assert_eq!(remembered(&failures), (REMEMBERED_MAX, REMEMBERED_MAX));
        failures.record(tried(REMEMBERED_MAX + 10), at(61));
        assert_eq!(remembered(&failures), (1, 1));
    }

    #[test]
    fn a_clock_that_is_put_back_leaves_nothing_behind() {
        let failures = Failures::default();
        for now in [50, 1_000, 51, 1_001, 52] {
            failures.record(tried(1), at(now));
            failures.record(tried(2), at(now));
        }
        failures.record(tried(3), at(2_000));
        let remembered = failures.0.lock().unwrap();
        assert_eq!((remembered.streaks.len(), remembered.begun.len()), (1, 1));
    }
}
