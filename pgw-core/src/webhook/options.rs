//! How an endpoint is delivered to: its deadline, how much at once, how fast, and in which order.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use crate::payment::UnknownName;
use crate::queue;

/// How webhooks are delivered to an endpoint.
///
/// ```
/// use std::time::Duration;
/// use pgw_core::webhook::{DeliveryOptions, Ordering, WhenExhausted};
/// let mut options = DeliveryOptions::default();
/// options.timeout = Some(Duration::from_secs(5));
/// options.ordering = Ordering::ByPayment(WhenExhausted::Skip);
/// assert!(options.check().is_ok());
/// options.timeout = Some(Duration::from_secs(3_600));
/// assert_eq!(options.check().unwrap_err().field(), "timeout_ms");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryOptions {
    /// The deadline of an attempt, from name resolution to the end of the answer: from [`TIMEOUT_MIN`](Self::TIMEOUT_MIN) to
    /// [`TIMEOUT_MAX`](Self::TIMEOUT_MAX), whole milliseconds. `None`: the gateway's.
    pub timeout: Option<Duration>,
    /// Most attempts at once: from 1 to [`CONCURRENCY_MAX`](Self::CONCURRENCY_MAX). `None`:
    /// [`CONCURRENCY_DEFAULT`](Self::CONCURRENCY_DEFAULT). Each worker keeps to it; over several
    /// processes it is kept where the queue knows of it, as PostgreSQL's does.
    pub concurrency: Option<NonZeroU8>,
    /// Most attempts a second that a worker makes: from 1 to [`RATE_MAX`](Self::RATE_MAX). `None`: as fast as they are due.
    pub rate_per_s: Option<NonZeroU32>,
    /// In which order.
    pub ordering: Ordering,
}

impl DeliveryOptions {
    /// Shortest deadline of an attempt: less would fail receivers on another continent.
    pub const TIMEOUT_MIN: Duration = Duration::from_secs(1);
    /// Longest deadline of an attempt. Receivers do their work after they have answered.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
    /// Attempts at once where nothing else is said.
    pub const CONCURRENCY_DEFAULT: u8 = Self::CONCURRENCY_MAX / 2;
    /// Most attempts at once: half of what is held of an endpoint that sets no limit of its own, so that the next one starts when one ends,
    /// and while what was answered is recorded.
    pub const CONCURRENCY_MAX: u8 = (queue::PER_ENDPOINT_MAX / 2) as u8;
    /// Most attempts a second that a limit may be set to.
    pub const RATE_MAX: u32 = 10_000;

    /// Whether everything is in its range.
    ///
    /// # Errors
    /// [`OptionsError`] names what is not.
    pub fn check(&self) -> Result<(), OptionsError> {
        let in_range = |timeout: &Duration| {
            (Self::TIMEOUT_MIN..=Self::TIMEOUT_MAX).contains(timeout)
                && timeout.subsec_nanos().is_multiple_of(1_000_000)
        };
        if !self.timeout.as_ref().is_none_or(in_range) {
            return Err(OptionsError::Timeout);
        }
        if self.concurrency.is_some_and(|most| most.get() > Self::CONCURRENCY_MAX) {
            return Err(OptionsError::Concurrency);
        }
        if self.rate_per_s.is_some_and(|rate| rate.get() > Self::RATE_MAX) {
            return Err(OptionsError::Rate);
        }
        Ok(())
    }

    /// Most attempts at once.
    #[must_use]
    pub fn concurrency_max(&self) -> u8 {
        self.concurrency.map_or(Self::CONCURRENCY_DEFAULT, NonZeroU8::get)
    }
}

/// An option that is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The deadline.
    #[error("must be from {} to {}", DeliveryOptions::TIMEOUT_MIN.as_millis(), DeliveryOptions::TIMEOUT_MAX.as_millis())]
    Timeout,
    /// The attempts at once.
    #[error("must be from 1 to {}", DeliveryOptions::CONCURRENCY_MAX)]
    Concurrency,
    /// The attempts a second.
    #[error("must be from 1 to {}", DeliveryOptions::RATE_MAX)]
    Rate,
}

impl OptionsError {
    /// The option's name on the wire.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Timeout => "timeout_ms",
            Self::Concurrency => "concurrency",
            Self::Rate => "rate_per_second",
        }
    }
}

/// In which order an endpoint hears the events of one payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Ordering {
    /// Each as soon as it is due. Receivers order by `sequence`.
    #[default]
    AsDue,
    /// Each after the one before it was taken or given up, so that `sequence` only goes up at the receiver. A payment that is held up
    /// holds up no other. What is replayed by hand comes when it is replayed, and an attempt whose answer was lost comes twice.
    ByPayment(WhenExhausted),
}

/// What becomes of a payment's later events when an earlier one was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum WhenExhausted {
    /// They are delivered: the receiver sees a gap in `sequence`.
    #[default]
    Skip,
    /// They wait until the earlier one is replayed and taken: the receiver never sees a gap.
    Park,
}

impl Ordering {
    /// The order's name: `none`, `skip` or `park`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsDue => "none",
            Self::ByPayment(WhenExhausted::Skip) => "skip",
            Self::ByPayment(WhenExhausted::Park) => "park",
        }
    }
}

impl std::str::FromStr for Ordering {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "none" => Ok(Self::AsDue),
            "skip" => Ok(Self::ByPayment(WhenExhausted::Skip)),
            "park" => Ok(Self::ByPayment(WhenExhausted::Park)),
            _ => Err(UnknownName),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_its_range() {
        let options = |timeout_ms: u64, concurrency: u8, rate: u32| DeliveryOptions {
            timeout: Some(Duration::from_millis(timeout_ms)),
            concurrency: NonZeroU8::new(concurrency),
            rate_per_s: NonZeroU32::new(rate),
            ordering: Ordering::AsDue,
        };
        assert_eq!(DeliveryOptions::default().check(), Ok(()));
        assert_eq!(options(1_000, 1, 1).check(), Ok(()));
        let most = DeliveryOptions::CONCURRENCY_MAX;
        assert_eq!(options(60_000, most, 10_000).check(), Ok(()));
        assert_eq!(options(999, 1, 1).check(), Err(OptionsError::Timeout));
        assert_eq!(options(60_001, 1, 1).check(), Err(OptionsError::Timeout));
        assert_eq!(options(1_000, most + 1, 1).check(), Err(OptionsError::Concurrency));
        assert_eq!(options(1_000, most, 10_001).check(), Err(OptionsError::Rate));
        let uneven = DeliveryOptions {
            timeout: Some(Duration::from_micros(1_500_500)),
            ..DeliveryOptions::default()
        };
        assert_eq!(uneven.check(), Err(OptionsError::Timeout));
    }

    #[test]
    fn orders_are_named() {
        use WhenExhausted::{Park, Skip};
        for order in [Ordering::AsDue, Ordering::ByPayment(Skip), Ordering::ByPayment(Park)] {
            assert_eq!(order.as_str().parse(), Ok(order));
        }
        assert!("payment".parse::<Ordering>().is_err());
    }
}
