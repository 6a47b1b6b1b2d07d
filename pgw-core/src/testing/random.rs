//! Randomness from a seed: the dice of a simulation, and the [`Entropy`] of the gateways in it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::env::Entropy;

/// A stream of numbers that depends on nothing but its seed. Not fit for secrets outside of tests.
///
/// ```
/// use pgw_core::testing::random::Random;
/// let (a, b) = (Random::new(7), Random::new(7));
/// assert_eq!(a.number(), b.number());
/// assert!(a.below(6) < 6);
/// ```
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Another stream, that depends on this one's seed and how much was drawn of it.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.number())
    }

    /// The next number.
    #[must_use]
    pub fn number(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014): one addition per draw, so it is a single atomic.
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something that happens `per_mille` times in a thousand happens now.
    #[must_use]
    pub fn hits(&self, per_mille: u32) -> bool {
        // Drawn even when it cannot happen, so that changing one rate does not shift every later draw.
        self.below(1_000) < u64::from(per_mille)
    }

    /// A wait below `longest`, in whole milliseconds.
    #[must_use]
    pub fn wait(&self, longest: Duration) -> Duration {
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(millis.saturating_add(1)))
    }

    /// One of the items; `None` of none.
    #[must_use]
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(usize::try_from(self.below(items.len() as u64)).unwrap_or(0))
    }
}

impl Entropy for Random {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.number().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// The odd number nearest to 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
