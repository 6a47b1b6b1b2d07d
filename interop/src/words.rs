//! Random texts and numbers.

use pgw_core::testing::random::Random;

/// A number from `min` to `max`, both included.
pub(crate) fn within(random: &Random, min: usize, max: usize) -> usize {
    min + usize::try_from(random.below((max - min) as u64 + 1)).unwrap_or(0)
}

/// A number from `min` to `max`, of each order of magnitude as many; the two ends more often than the rest.
pub(crate) fn spread(random: &Random, min: usize, max: usize) -> usize {
    match random.below(100) {
        0 => min,
        1 => max,
        _ => {
            // A limit of each length in bits, then a number below it.
            let bits = u64::from(usize::BITS - max.leading_zeros());
            let limit = 1_usize.checked_shl(random.below(bits + 1) as u32).unwrap_or(max);
            within(random, min, limit.clamp(min, max))
        }
    }
}

/// A text of this many characters, of one script or of all of Unicode, control characters included.
pub(crate) fn text(random: &Random, chars: usize) -> String {
    let alphabet = random.pick(ALPHABETS).expect("there are alphabets");
    (0..chars).map(|_| character(random, alphabet)).collect()
}

/// As [`text`], of characters that pgw takes from its callers: no control characters, and no digits, which could be a card number.
pub(crate) fn plain(random: &Random, chars: usize) -> String {
    text(random, chars).chars().filter(|c| !c.is_control() && !c.is_numeric()).collect()
}

/// A text of visible ASCII characters without `.`, as webhook ids have them.
pub(crate) fn visible(random: &Random, chars: usize) -> String {
    let visible: Vec<char> = ('!'..='~').filter(|c| *c != '.').collect();
    let pick = || random.pick(&visible).copied().expect("there are characters");
    (0..chars).map(|_| pick()).collect()
}

fn character(random: &Random, alphabet: &[(u32, u32)]) -> char {
    let (first, last) = *random.pick(alphabet).expect("an alphabet has ranges");
    let code = u64::from(first) + random.below(u64::from(last - first) + 1);
    // The gap of the surrogates is the only one.
    u32::try_from(code).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
}

/// Ranges of code points, first and last. Control characters and quotes are escaped in JSON; U+2028 is a line's end to some; combining
/// characters change under normalisation; beyond U+FFFF a character is two units of UTF-16.
const ALPHABETS: &[&[(u32, u32)]] = &[
    &[(0x20, 0x7e)],
    &[(0x20, 0x7e), (0x00, 0x1f), (0x22, 0x22), (0x5c, 0x5c), (0x7f, 0x9f)],
    &[(0x20, 0x7e), (0xa0, 0x17f), (0x300, 0x36f)],
    &[(0x370, 0x5ff), (0x600, 0x6ff), (0x900, 0x97f)],
    &[(0x3040, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3)],
    &[(0x2000, 0x206f), (0xfe00, 0xfeff), (0xfff0, 0xffff), (0x20, 0x7e)],
    &[(0x1f300, 0x1faff), (0x1f1e6, 0x1f1ff), (0xe0100, 0xe01ef)],
    &[(0x00, 0xd7ff), (0xe000, 0xffff), (0x1_0000, 0x10_ffff)],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_ends_and_nothing_beyond() {
        let random = Random::new(1);
        let numbers: Vec<_> = (0..2_000).map(|_| spread(&random, 2, 1_000)).collect();
        assert_eq!(numbers.iter().min(), Some(&2));
        assert_eq!(numbers.iter().max(), Some(&1_000));
        assert!(numbers.iter().filter(|number| **number < 32).count() > 500);
    }

    #[test]
    fn texts_have_the_characters_that_are_asked_for() {
        let random = Random::new(1);
        for _ in 0..500 {
            assert_eq!(text(&random, 30).chars().count(), 30);
            assert!(!plain(&random, 30).contains(|c: char| c.is_control() || c.is_numeric()));
            assert!(visible(&random, 30).bytes().all(|b| b.is_ascii_graphic() && b != b'.'));
        }
    }
}
