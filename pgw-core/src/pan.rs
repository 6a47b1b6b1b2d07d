//! Finds card numbers (PANs) in text, so that none is ever stored or logged.
//!
//! It finds what a person or a program writes by mistake; it is no match for someone who hides a
//! number on purpose. What to do about a number that was found is up to the callers.

/// Whether the text holds a card number: the range and length of a known issuer, a valid Luhn check
/// digit, with or without spaces, dashes or dots in between, full-width and other decimal digits
/// included.
///
/// Not card numbers: digits that touch an ASCII letter (hashes, TypeIDs), more than 19 digits in a
/// row, UUIDs, IBANs, decimal fractions, and phone numbers that start with `+`. The time is linear
/// in the text's length.
///
/// ```
/// use pgw_core::pan::contains_card_number;
/// assert!(contains_card_number("my card is 4111 1111 1111 1111, thanks"));
/// assert!(!contains_card_number("placed at 1763933000123"));
/// ```
#[must_use]
pub fn contains_card_number(text: &str) -> bool {
    let text = simplify(text);
    let mut chain: Vec<Group> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let before = at.checked_sub(1).map_or(OTHER, |previous| text[previous]);
        if !before.is_ascii_alphanumeric()
            && let Some(len) = uuid_len(&text[at..]).or_else(|| iban_len(&text[at..]))
        {
            at += len;
        } else if byte.is_ascii_digit() {
            let len = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let end = at + len;
            let touches_letter =
                before.is_ascii_alphabetic() || text.get(end).is_some_and(u8::is_ascii_alphabetic);
            let gap = chain.last().and_then(|last| Gap::of(&text[last.end..at]));
            if gap.is_none() || touches_letter {
                if chain_holds_card(&text, &chain) {
                    return true;
                }
                chain.clear();
            }
            if !touches_letter {
                chain.push(Group { start: at, end, gap, is_international: before == b'+' });
            }
            at = end;
        } else {
            at += 1;
        }
    }
    chain_holds_card(&text, &chain)
}

/// Digits in a row.
struct Group {
    start: usize,
    end: usize,
    /// What is between the group before in the same chain and this one.
    gap: Option<Gap>,
    /// Whether a `+` stands before it.
    is_international: bool,
}

impl Group {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// What can stand between the groups of one number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    Spaces,
    Dash,
    Dot,
    Mixed,
}

impl Gap {
    /// The kind of gap, or none when it separates two numbers.
    fn of(between: &[u8]) -> Option<Self> {
        let is_separator = |byte: &u8| matches!(byte, b' ' | b'-' | b'.');
        if between.is_empty() || between.len() > GAP_LEN_MAX || !between.iter().all(is_separator) {
            return None;
        }
        Some(match (between.contains(&b'-'), between.contains(&b'.')) {
            (false, false) => Self::Spaces,
            (true, false) => Self::Dash,
            (false, true) => Self::Dot,
            (true, true) => Self::Mixed,
        })
    }
}

/// Whether some consecutive groups of a chain are a card number. Looks at no more than 19 groups
/// from each, so it is linear.
fn chain_holds_card(text: &[u8], chain: &[Group]) -> bool {
    (0..chain.len()).any(|first| {
        let mut digits = Vec::with_capacity(PAN_LEN_MAX);
        for (last, group) in chain.iter().enumerate().skip(first) {
            if digits.len() + group.len() > PAN_LEN_MAX {
                return false;
            }
            digits.extend(text[group.start..group.end].iter().map(|byte| byte - b'0'));
            let window = &chain[first..=last];
            let is_phone = window[0].is_international && digits.len() <= PHONE_LEN_MAX;
            let is_one_number =
                is_written_as_card(window) || (window.len() == chain.len() && is_uniform(window));
            let is_one_number = is_one_number && !is_decimal(window);
            if is_one_number && !is_phone && is_card_number(&digits) {
                return true;
            }
        }
        false
    })
}

/// Groups as cards are embossed and typed, `4-4-4-4`, `4-6-5`, `6-13`, …: four digits first and no
/// small group but the last. Such a number may stand beside other numbers.
fn is_written_as_card(window: &[Group]) -> bool {
    let (last, others) = window.split_last().expect("a window has a group");
    others.first().unwrap_or(last).len() >= 4 && others.iter().all(|group| group.len() >= 3)
}

/// One kind of gap throughout. Groups of any size are then one number if no other number is beside
/// them.
fn is_uniform(window: &[Group]) -> bool {
    window.len() < 2
        || window[1..]
            .iter()
            .all(|group| group.gap == window[1].gap && group.gap != Some(Gap::Mixed))
}

/// A decimal point between two groups, as in a coordinate.
fn is_decimal(window: &[Group]) -> bool {
    window.len() == 2 && window[1].gap == Some(Gap::Dot)
}

fn is_card_number(digits: &[u8]) -> bool {
    digits.len() >= PAN_LEN_MIN && is_issued(digits) && luhn(digits)
}

/// Whether a known issuer gives out numbers of this length in this range. The ranges are those of
/// ISO/IEC 7812 that the issuers publish.
fn is_issued(digits: &[u8]) -> bool {
    let prefix = digits.iter().take(6).fold(0_u32, |prefix, &digit| prefix * 10 + u32::from(digit));
    let len = digits.len();
    match prefix {
        // Visa; those of 13 digits are old.
        400_000..=499_999 => matches!(len, 13 | 16 | 19),
        // Mastercard, with its 2-series.
        510_000..=559_999 | 222_100..=272_099 => len == 16,
        // American Express.
        340_000..=349_999 | 370_000..=379_999 => len == 15,
        // Discover (the part of it under 62 is with UnionPay).
        601_100..=601_199 | 644_000..=659_999 => len >= 16,
        // UnionPay.
        620_000..=629_999 | 810_000..=817_199 => len >= 16,
        // JCB.
        352_800..=358_999 => len >= 16,
        // Diners Club.
        300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => len >= 14,
        // Maestro: the prefixes that were issued in every length…
        501_800..=501_899
        | 502_000..=502_099
        | 503_800..=503_899
        | 589_300..=589_399
        | 630_400..=630_499
        | 675_900..=675_999
        | 676_100..=676_399 => true,
        // …and its wider ranges. Their short numbers would be the phone numbers of whole countries.
        500_000..=509_999 | 560_000..=589_999 | 639_000..=639_099 | 670_000..=679_999 => len >= 16,
        _ => false,
    }
}

/// The check of ISO/IEC 7812-1 annex B.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = (digits.iter().rev().enumerate())
        .map(|(place, &digit)| match (place % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The length of the UUID that the bytes start with.
fn uuid_len(text: &[u8]) -> Option<usize> {
    let uuid = text.get(..UUID_LEN)?;
    let is_uuid = uuid.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    let ends = text.get(UUID_LEN).is_none_or(|next| !next.is_ascii_alphanumeric());
    (is_uuid && ends).then_some(UUID_LEN)
}

/// The length of the IBAN (ISO 13616), in its printed groups, that the bytes start with: two
/// letters, two digits, and a remainder of one modulo 97.
fn iban_len(text: &[u8]) -> Option<usize> {
    let head = text.get(..4)?;
    if !head[..2].iter().all(u8::is_ascii_uppercase) || !head[2..].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let tail = head.iter().fold(0, |remainder, &byte| iban_step(remainder, byte));
    let tail_weight = head
        .iter()
        .fold(1, |weight, byte| weight * if byte.is_ascii_digit() { 10 } else { 100 } % 97);
    let (mut remainder, mut count, mut found) = (0, 4, None);
    for (at, &byte) in text.iter().enumerate().skip(4) {
        if byte.is_ascii_uppercase() || byte.is_ascii_digit() {
            remainder = iban_step(remainder, byte);
            count += 1;
        } else if byte != b' ' || text[at - 1] == b' ' {
            break;
        }
        let ends = text.get(at + 1).is_none_or(|next| !next.is_ascii_alphanumeric());
        if count > IBAN_LEN_MAX {
            break;
        }
        if count >= IBAN_LEN_MIN
            && ends
            && byte != b' '
            && (remainder * tail_weight + tail) % 97 == 1
        {
            found = Some(at + 1);
        }
    }
    found
}

/// Appends a digit, or a letter as 10 to 35, to a number modulo 97.
fn iban_step(remainder: u32, byte: u8) -> u32 {
    match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        _ => (remainder * 100 + u32::from(byte.saturating_sub(b'A')) + 10) % 97,
    }
}

/// The text with each digit as its ASCII digit, each separator as one of three, without invisible
/// characters.
fn simplify(text: &str) -> Vec<u8> {
    text.chars()
        .filter_map(|c| match c {
            '0'..='9' | 'a'..='z' | 'A'..='Z' | '+' => u8::try_from(c).ok(),
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => None,
            '-'
            | '\u{2010}'..='\u{2015}'
            | '\u{2043}'
            | '\u{2212}'
            | '\u{fe58}'
            | '\u{fe63}'
            | '\u{ff0d}' => Some(b'-'),
            '.' | '\u{b7}' | '\u{2022}' | '\u{2024}' | '\u{2027}' | '\u{ff0e}' => Some(b'.'),
            '\u{1d7ce}'..='\u{1d7ff}' => {
                u8::try_from((u32::from(c) - 0x1d7ce) % 10).ok().map(|digit| b'0' + digit)
            }
            c if c.is_whitespace() => Some(b' '),
            c => Some(decimal_digit(c).unwrap_or(OTHER)),
        })
        .collect()
}

/// The ASCII digit of a decimal digit of another script.
fn decimal_digit(c: char) -> Option<u8> {
    DIGIT_ZEROS
        .iter()
        .filter_map(|&zero| u32::from(c).checked_sub(zero))
        .find(|digit| *digit < 10)
        .and_then(|digit| u8::try_from(digit).ok())
        .map(|digit| b'0' + digit)
}

/// Stands for each character that is neither letter, digit, nor separator.
const OTHER: u8 = b'?';

/// The shortest card number that was ever issued.
const PAN_LEN_MIN: usize = 12;

/// The longest card number ISO/IEC 7812 allows.
const PAN_LEN_MAX: usize = 19;

/// The longest international phone number (ITU-T E.164).
const PHONE_LEN_MAX: usize = 15;

/// A dash with a space on either side is the widest gap people leave inside a number.
const GAP_LEN_MAX: usize = 3;

/// A UUID in its usual form, with dashes.
const UUID_LEN: usize = 36;

/// The shortest IBAN in use, the Norwegian.
const IBAN_LEN_MIN: usize = 15;

/// The longest IBAN that ISO 13616 allows.
const IBAN_LEN_MAX: usize = 34;

/// The zeros of the scripts whose digits an ordinary keyboard of the region types: Arabic, Persian,
/// Devanagari, Bengali, Thai, and the full-width ones of East Asia.
const DIGIT_ZEROS: [u32; 6] = [0x0660, 0x06f0, 0x0966, 0x09e6, 0x0e50, 0xff10];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The numbers that the brands and processors publish for tests.
    const TEST_PANS: [(&str, &[&str]); 8] = [
        (
            "visa",
            &[
                "4111111111111111",
                "4242424242424242",
                "4000056655665556",
                "4012888888881881",
                "4222222222222",
                "4000000760000000003",
            ],
        ),
        (
            "mastercard",
            &[
                "5555555555554444",
                "5105105105105100",
                "5200828282828210",
                "2223003122003222",
                "2720990000000007",
            ],
        ),
        ("amex", &["378282246310005", "371449635398431", "340000000000009"]),
        (
            "discover",
            &["6011111111111117", "6011000990139424", "6445644564456445", "6500000000000002"],
        ),
        ("jcb", &["3530111333300000", "3566002020360505", "3528000000000007"]),
        (
            "diners",
            &[
                "30569309025904",
                "38520000023237",
                "36227206271667",
                "3056930009020004",
                "30950000000000",
            ],
        ),
        (
            "unionpay",
            &["6200000000000005", "6205500000000000004", "6221260000000000", "8171999900000000021"],
        ),
        (
            "maestro",
            &[
                "6759649826438453",
                "6799990100000000019",
                "5018000000000009",
                "6304000000000000",
                "501800000009",
                "6771798021000008",
            ],
        ),
    ];

    /// The last digit replaced by the one that makes the number valid.
    fn with_check_digit(digits: &str) -> String {
        let stem = &digits[..digits.len() - 1];
        (0..10)
            .map(|check| format!("{stem}{check}"))
            .find(|number| luhn(&number.bytes().map(|byte| byte - b'0').collect::<Vec<_>>()))
            .expect("one of ten digits is right")
    }

    fn grouped(pan: &str, sizes: &[usize], separator: &str) -> String {
        let (mut rest, mut groups) = (pan, Vec::new());
        for &size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (group, left) = rest.split_at(size.min(rest.len()));
            groups.push(group);
            rest = left;
        }
        groups.join(separator)
    }

    #[test]
    fn finds_every_brand_in_every_spelling() {
        for (brand, pans) in TEST_PANS {
            for pan in pans.iter().map(|pan| with_check_digit(pan)) {
                let full_width: String = pan
                    .bytes()
                    .map(|b| char::from_u32(0xff10 + u32::from(b - b'0')).expect("a digit"))
                    .collect();
                let mut spellings =
                    vec![pan.clone(), full_width, format!("+++{pan}+++").replace("+++", "/")];
                for separator in [
                    " ", "-", ".", "\u{a0}", "\u{202f}", "\u{2011}", "\u{2013}", "\u{2212}", " - ",
                    "  ", "\u{200b}", "·",
                ] {
                    spellings.push(grouped(&pan, &[4], separator));
                    spellings.push(grouped(&pan, &[4, 6, 9], separator));
                    spellings.push(grouped(&pan, &[1], separator));
                    spellings.push(grouped(&pan, &[2], separator));
                    spellings.push(grouped(&pan, &[8], separator));
                }
                for spelling in spellings {
                    for text in [
                        spelling.clone(),
                        format!("my card is {spelling}, thanks"),
                        format!("PAN:{spelling}; cvv 123"),
                        format!("カード番号{spelling}です"),
                        format!("({spelling})"),
                    ] {
                        let is_fraction = spelling.matches(['.', '·']).count() == 1;
                        assert_eq!(contains_card_number(&text), !is_fraction, "{brand}: {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn published_numbers_are_found_as_published() {
        for pan in [
            "4111111111111111",
            "4242424242424242",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "3056930009020004",
            "6200000000000005",
            "6759649826438453",
            "4222222222222",
        ] {
            assert!(contains_card_number(pan), "{pan}");
        }
    }

    #[test]
    fn finds_a_number_beside_other_numbers() {
        for text in [
            "4111 1111 1111 1111 12 25 123",
            "4111111111111111 12/25 123",
            "no. 7: 4111-1111-1111-1111",
            "2026-11-23 4111 1111 1111 1111",
            "12 4111111111111111",
            "3782 822463 10005 0426",
            "{\"card\":4111111111111111}",
            "4111111111111111|4|27",
        ] {
            assert!(contains_card_number(text), "{text}");
        }
    }

    #[test]
    fn wrong_check_digits_lengths_and_ranges_are_not_cards() {
        for text in [
            "4111111111111112",
            "5555555555554445",
            "411111111111111",
            "41111111111111111",
            "0000000000000000",
            "1111111111111117",
            "9999999999999995",
            // IMEI and ICCID have the same check digit but other ranges.
            "490154203237518",
            "8991101200003204510",
            "",
        ] {
            assert!(!contains_card_number(text), "{text}");
        }
        // Twenty digits that begin, and that end, with a card number.
        assert!(!contains_card_number("41111111111111110000"));
        assert!(!contains_card_number("00004111111111111111"));
    }

    #[test]
    fn identifiers_are_not_cards() {
        for text in [
            "a4111111111111111",
            "4111111111111111f",
            "tok4111111111111111x",
            "pay_01h4111111111111111vb4pex5",
            "41111111-1111-4111-8111-111111111111",
            "d41d8cd98f00b204e9800998ecf8427e",
            "DE89 3704 0044 0532 0130 00",
            "DE89370400440532013000",
            "GB29 NWBK 6016 1331 9268 19",
            "+573001234567",
            "+62 812 3456 7890",
            "+593 99 123 4567",
            "30.11.2026 - 15.12.2026",
            "30.11.2026 15.12.2026",
            "2026-11-23T21:55:08.123456789Z",
            "192.168.100.200",
            "37.774929, -122.419418",
            "51.05105105105100",
            "5.105105105105100",
            "ORDER-2026-000001234",
        ] {
            assert!(!contains_card_number(text), "{text}");
        }
        // Where only the check of the IBAN, or the shape of the UUID, tells them from cards.
        let account = (0..10_000_u64)
            .map(|n| format!("4111 1111 1111 1111 {:02}", n % 100))
            .find_map(|bban| {
                (2..99)
                    .map(|check| format!("DE{check:02} {bban}"))
                    .find(|iban| iban_len(iban.as_bytes()).is_some())
            })
            .expect("some check digits are right");
        assert!(!contains_card_number(&account), "{account}");
        assert!(contains_card_number("DE00 4111 1111 1111 1111 00"));
        assert!(contains_card_number("41111111-1111-1111"));
    }

    #[test]
    fn phones_dates_and_fractions_are_told_from_cards() {
        let number = with_check_digit("676100000000");
        assert!(contains_card_number(&number));
        assert!(!contains_card_number(&format!("+{number}")));
        assert!(!contains_card_number(&format!("+{}", grouped(&number, &[3], " "))));
        // The end of November reads as the range of Diners Club.
        for (day, month) in (1..=31).flat_map(|day| (1..=12).map(move |month| (day, month))) {
            for between in [" ", " - ", "-", ", ", "/"] {
                let text = format!("30.11.2026{between}{day:02}.{month:02}.2026");
                assert!(!contains_card_number(&text), "{text}");
            }
        }
        for n in 0..1_000_u64 {
            let text = format!("51.{:014} -0.{n}", n * 7_919_000_001);
            assert!(!contains_card_number(&text), "{text}");
        }
    }

    #[test]
    fn millisecond_timestamps_are_not_cards() {
        const START_2020: u64 = 1_577_836_800_000;
        const END_2035: u64 = 2_082_758_400_000;
        let spread = (0..100_000).map(|n| START_2020 + n * (END_2035 - START_2020) / 100_000);
        for ms in (START_2020..START_2020 + 100_000).chain(spread) {
            for text in [
                ms.to_string(),
                format!("at {ms}"),
                format!("{}.{:03}", ms / 1000, ms % 1000),
                format!("{ms}000"),
            ] {
                assert!(!contains_card_number(&text), "{text}");
            }
        }
    }

    #[test]
    fn type_ids_uuids_and_hashes_are_not_cards() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..50_000 {
            let (a, b) = (next(), next());
            let uuid = format!(
                "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
                a >> 32,
                a >> 16 & 0xffff,
                a & 0xfff,
                b >> 48 & 0xfff,
                b & 0xffff_ffff_ffff
            );
            assert!(!contains_card_number(&uuid), "{uuid}");
            let base32: String = (0..26)
                .map(|place| {
                    let bits = if place < 13 { a >> (place * 4) } else { b >> ((place - 13) * 4) };
                    char::from(b"0123456789abcdefghjkmnpqrstvwxyz"[(bits & 31) as usize])
                })
                .collect();
            assert!(!contains_card_number(&format!("pay_{base32}")), "{base32}");
        }
    }

    /// A valid number of a random issuer.
    fn any_pan() -> impl Strategy<Value = String> {
        let kinds = vec![
            ("4", 16),
            ("4", 13),
            ("4", 19),
            ("51", 16),
            ("55", 16),
            ("2221", 16),
            ("2720", 16),
            ("34", 15),
            ("37", 15),
            ("6011", 16),
            ("65", 16),
            ("644", 19),
            ("3528", 16),
            ("3589", 16),
            ("36", 14),
            ("305", 14),
            ("39", 16),
            ("62", 16),
            ("62", 19),
            ("81", 17),
            ("6759", 12),
            ("5018", 13),
            ("6762", 19),
            ("58", 16),
        ];
        (proptest::sample::select(kinds), "[0-9]{20}").prop_map(|((prefix, len), random)| {
            // UnionPay has only a part of 81.
            let prefix = if prefix == "81" { "810" } else { prefix };
            with_check_digit(&format!("{prefix}{random}")[..len])
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn random_numbers_in_text_are_found(
            pan in any_pan(),
            separator in "[ -]?",
            before in "([A-Za-z,;:]{0,20}[ ,:;(\"/])?",
            after in "([ ,:;)\"/][A-Za-z,;:]{0,20})?",
        ) {
            for sizes in [&[4][..], &[4, 6, 9], &[6, 13]] {
                let text = format!("{before}{}{after}", grouped(&pan, sizes, &separator));
                prop_assert!(contains_card_number(&text), "{}", text);
            }
        }

        #[test]
        fn any_text_is_judged(text in any::<String>()) {
            let digits = simplify(&text).iter().filter(|byte| byte.is_ascii_digit()).count();
            prop_assert!(digits >= PAN_LEN_MIN || !contains_card_number(&text));
        }
    }
}
