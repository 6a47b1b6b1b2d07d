//! A point in time: microseconds since the Unix epoch, UTC. Reading the clock is `env.rs`'s business.

use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A UTC instant with microsecond precision, as every row and answer holds it.
///
/// Text form is RFC 3339 with exactly six fractional digits, so texts sort as times do.
///
/// ```
/// use pgw_core::timestamp::Timestamp;
/// let t = Timestamp::from_micros(1_768_564_800_000_001);
/// assert_eq!(t.to_string(), "2026-01-16T12:00:00.000001Z");
/// assert_eq!("2026-01-16T12:00:00.000001Z".parse::<Timestamp>().unwrap(), t);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);
    /// The last instant that RFC 3339 can write (year 9999).
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// From microseconds since the epoch, clamped to years 1970..=9999.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros < 0 {
            Self(0)
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0 / 1_000
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0 / 1_000_000
    }

    /// This instant moved forward, saturating at [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// This instant moved back, saturating at the epoch.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp(self.as_secs())
            .expect("a Timestamp is clamped to years 1970..=9999, which OffsetDateTime holds");
        let (date, clock) = (at.date(), at.time());
        // Digit by digit: every object holds several times, and the formatting machinery costs more than all
        // the rest of an object's rendering.
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put(&mut text[0..4], date.year().unsigned_abs());
        put(&mut text[5..7], u8::from(date.month()).into());
        put(&mut text[8..10], date.day().into());
        put(&mut text[11..13], clock.hour().into());
        put(&mut text[14..16], clock.minute().into());
        put(&mut text[17..19], clock.second().into());
        put(&mut text[20..26], u32::try_from(self.0 % 1_000_000).unwrap_or(0));
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

fn put(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError)?;
        let micros =
            i64::try_from(at.unix_timestamp_nanos() / 1_000).map_err(|_| TimestampError)?;
        if (0..=Self::MAX.0).contains(&micros) { Ok(Self(micros)) } else { Err(TimestampError) }
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not an RFC 3339 time between 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 time, for example 2026-01-16T12:00:00Z")]
pub struct TimestampError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts() {
        for micros in [0, 1, 999_999, 1_768_564_800_000_000, Timestamp::MAX.0] {
            let t = Timestamp::from_micros(micros);
            assert_eq!(t.to_string().parse::<Timestamp>(), Ok(t));
        }
        assert!(Timestamp::from_micros(5).to_string() < Timestamp::from_micros(40).to_string());
    }

    #[test]
    fn offsets_are_read_and_nonsense_is_refused() {
        let utc: Timestamp = "2026-01-16T12:00:00Z".parse().unwrap();
        assert_eq!("2026-01-16T13:00:00+01:00".parse::<Timestamp>(), Ok(utc));
        for bad in ["", "now", "2026-01-16", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(bad.parse::<Timestamp>(), Err(TimestampError), "{bad}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.minus(Duration::MAX), Timestamp::EPOCH);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(Timestamp::from_micros(7).since(Timestamp::from_micros(2)).as_micros(), 5);
    }
}
