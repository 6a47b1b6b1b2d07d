//! Money: a whole number of minor units and its currency, with checked arithmetic.
//!
//! Text is read and written here as an exact decimal; nothing goes through a float. Which amount is
//! allowed for which step of a payment is decided in `payment`, not here.
#![deny(clippy::arithmetic_side_effects)]

use std::cmp::Ordering;
use std::fmt::{self, Write};

use crate::currency::Currency;

/// An amount of money: 0 to [`Money::MINOR_MAX`] minor units of one currency. Never negative: every
/// amount in this crate is a magnitude, and its direction is in the name of what it belongs to.
///
/// ```
/// use pgw_core::{currency::Currency, money::{Money, MoneyError}};
/// let price = Money::parse_major("49.90", Currency::USD)?;
/// assert_eq!(price.minor(), 4990);
/// assert_eq!(price.to_string(), "49.9");
/// assert_eq!(
///     Money::parse_major("49.999", Currency::USD),
///     Err(MoneyError::TooPrecise { max_decimals: 2, currency: Currency::USD }),
/// );
/// # Ok::<(), MoneyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// Why something is not an amount of money. The texts continue a field's name, as in "amount must
/// …", and never echo the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoneyError {
    /// Not a decimal number in the grammar of JSON, or longer than 64 bytes.
    #[error("must be a decimal number")]
    Malformed,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// Not a whole number of minor units.
    #[error("must have at most {max_decimals} decimals for {currency}")]
    TooPrecise {
        /// The currency's exponent.
        max_decimals: u8,
        /// The currency.
        currency: Currency,
    },
    /// Above [`Money::MINOR_MAX`].
    #[error("must be at most {} minor units", Money::MINOR_MAX)]
    TooLarge,
    /// Two amounts of different currencies do not add, subtract or compare.
    #[error("must be in the same currency")]
    CurrencyMismatch,
}

impl Money {
    /// The largest amount, in minor units: 15 nines, so that the number of minor and of major units
    /// is exact in every JSON reader, and a sum of thousands of amounts fits an SQL `bigint`.
    pub const MINOR_MAX: i64 = 999_999_999_999_999;

    /// An amount from minor units (cents, pence, yen).
    ///
    /// # Errors
    /// [`MoneyError::Negative`] below zero, [`MoneyError::TooLarge`] above [`Money::MINOR_MAX`].
    pub const fn from_minor(minor: i64, currency: Currency) -> Result<Self, MoneyError> {
        match minor {
            ..=-1 => Err(MoneyError::Negative),
            0..=Self::MINOR_MAX => Ok(Self { minor, currency }),
            _ => Err(MoneyError::TooLarge),
        }
    }

    /// No money.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// An amount from a decimal number of major units in the grammar of JSON (RFC 8259 §6), such as
    /// `49.99`, `500` or `1e2`. Zeros at the end say nothing, so `49.9900` is fine; `-0` is zero.
    ///
    /// # Errors
    /// [`MoneyError::Malformed`] when it is no such number or is longer than 64 bytes; else
    /// [`MoneyError::Negative`], [`MoneyError::TooPrecise`] or [`MoneyError::TooLarge`], in this
    /// order.
    pub fn parse_major(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let decimal = Decimal::parse(text).ok_or(MoneyError::Malformed)?;
        if decimal.digits.is_empty() {
            return Ok(Self::zero(currency));
        }
        if decimal.is_negative {
            return Err(MoneyError::Negative);
        }
        let max_decimals = currency.exponent();
        let zeros = decimal.exponent.saturating_add(i64::from(max_decimals));
        let zeros = usize::try_from(zeros)
            .map_err(|_| MoneyError::TooPrecise { max_decimals, currency })?;
        if decimal.digits.len().saturating_add(zeros) > MINOR_DIGITS_MAX {
            return Err(MoneyError::TooLarge);
        }
        let digits = decimal.digits.iter().map(|digit| i64::from(digit & 0x0f));
        let minor = digits
            .chain(std::iter::repeat_n(0, zeros))
            .try_fold(0_i64, |minor, digit| minor.checked_mul(10)?.checked_add(digit))
            .ok_or(MoneyError::TooLarge)?;
        Self::from_minor(minor, currency)
    }

    /// The amount in minor units, 0 to [`Money::MINOR_MAX`].
    #[must_use]
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    #[must_use]
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// Whether this is no money.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// The sum.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`], or [`MoneyError::TooLarge`] above [`Money::MINOR_MAX`].
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::TooLarge)?;
        Self::from_minor(minor, self.currency)
    }

    /// What is left of this amount without `other`.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`], or [`MoneyError::Negative`] when `other` is the larger.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_sub(other.minor).ok_or(MoneyError::Negative)?;
        Self::from_minor(minor, self.currency)
    }

    /// Which amount is the larger.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`].
    pub fn compare(self, other: Self) -> Result<Ordering, MoneyError> {
        self.same_currency(other)?;
        Ok(self.minor.cmp(&other.minor))
    }

    /// Writes the major units as the shortest decimal (`49.9`, `500`, `0.0001`): a JSON number, and
    /// what JavaScript prints for it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_major(&self, out: &mut impl Write) -> fmt::Result {
        let (whole, mut fraction, mut width) = self.split();
        if fraction == 0 {
            return write!(out, "{whole}");
        }
        while let Some(shorter) = fraction.checked_div(10)
            && fraction.checked_rem(10) == Some(0)
        {
            fraction = shorter;
            width = width.saturating_sub(1);
        }
        write!(out, "{whole}.{fraction:0width$}")
    }

    /// Major units, the minor units beside them, and how many digits the latter have.
    fn split(self) -> (i64, i64, usize) {
        let exponent = self.currency.exponent();
        let unit = 10_i64.checked_pow(u32::from(exponent)).expect("an exponent is at most 4");
        let whole = self.minor.checked_div(unit).expect("a power of ten is not zero");
        let fraction = self.minor.checked_rem(unit).expect("a power of ten is not zero");
        (whole, fraction, usize::from(exponent))
    }

    fn same_currency(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency { Ok(()) } else { Err(MoneyError::CurrencyMismatch) }
    }
}

impl MoneyError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Negative => "negative",
            Self::TooPrecise { .. } => "too_precise",
            Self::TooLarge => "too_large",
            Self::CurrencyMismatch => "currency_mismatch",
        }
    }
}

/// The shortest decimal number of major units, without the currency.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_major(f)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self} ({})", self.currency, self.minor)
    }
}

/// A decimal number: the digits, as an integer, times `10^exponent`. The digits neither start nor
/// end with a zero; zero has none.
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Reads the number grammar of JSON.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        if !is_digits(whole) || (whole.len() > 1 && whole.starts_with('0')) {
            return None;
        }
        let fraction_len = i64::try_from(fraction.len()).ok()?;
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let start = all.iter().position(|&digit| digit != b'0').unwrap_or(all.len());
        let end = all
            .iter()
            .rposition(|&digit| digit != b'0')
            .map_or(start, |last| last.saturating_add(1));
        let dropped = i64::try_from(all.len().saturating_sub(end)).ok()?;
        let exponent = exponent.saturating_sub(fraction_len).saturating_add(dropped);
        Some(Self { is_negative, digits: all.get(start..end)?.to_vec(), exponent })
    }
}

/// An exponent; one too large for an `i64` is cut off there, which is as far out of range.
fn parse_exponent(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if !is_digits(digits) {
        return None;
    }
    let size = digits.parse::<i64>().unwrap_or(i64::MAX);
    Some(if is_negative { size.saturating_neg() } else { size })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The digits of [`Money::MINOR_MAX`].
const MINOR_DIGITS_MAX: usize = 15;

/// The longest text read as a number. No allowed amount needs more than 16; the rest is room
/// for zeros and exponents that other programs write.
const TEXT_LEN_MAX: usize = 64;

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests compute small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(minor: i64) -> Money {
        Money::from_minor(minor, Currency::USD).expect("in range")
    }

    fn minor_of(text: &str, currency: Currency) -> Result<i64, MoneyError> {
        Money::parse_major(text, currency).map(Money::minor)
    }

    fn too_precise(currency: Currency) -> Result<i64, MoneyError> {
        Err(MoneyError::TooPrecise { max_decimals: currency.exponent(), currency })
    }

    #[test]
    fn reads_exact_decimals() {
        for (text, minor) in [
            ("49.99", 4999),
            ("49.9", 4990),
            ("500", 50000),
            ("0.01", 1),
            ("0", 0),
            ("-0", 0),
            ("-0.00e-7", 0),
            ("0e999999999999999999999999", 0),
            ("10.000", 1000),
            ("0.0100000000", 1),
            ("1e2", 10000),
            ("1E+2", 10000),
            ("4.99e1", 4990),
            ("4999e-2", 4999),
            ("10e-3", 1),
            ("1e-2", 1),
            ("0.000000000000000000000000000001e28", 1),
            ("9999999999999.99", Money::MINOR_MAX),
            ("999999999999999e-2", Money::MINOR_MAX),
        ] {
            assert_eq!(minor_of(text, Currency::USD), Ok(minor), "{text}");
        }
        assert_eq!(minor_of("0.001", Currency::KWD), Ok(1));
        assert_eq!(minor_of("0.0001", Currency::UYW), Ok(1));
        assert_eq!(minor_of("999999999999999.0", Currency::JPY), Ok(Money::MINOR_MAX));
    }

    #[test]
    fn refuses_what_is_not_a_number_of_json() {
        for text in [
            "",
            " ",
            "-",
            "+1",
            "01",
            "00",
            "1.",
            ".5",
            "1.e2",
            "1e",
            "1e+",
            "1e1.5",
            "1e1e1",
            "1,00",
            "1_000",
            "0x10",
            "NaN",
            "Infinity",
            "null",
            "\"1\"",
            " 1",
            "1 ",
            "1\n",
            "1\u{0}",
            "--1",
            "１",
            "1.2.3",
            "- 1",
            "1e--2",
            "-.5",
            "49.99 USD",
            "$1",
        ] {
            assert_eq!(minor_of(text, Currency::USD), Err(MoneyError::Malformed), "{text:?}");
        }
        assert_eq!(minor_of(&format!("1.{}", "0".repeat(62)), Currency::USD), Ok(100));
        let long = format!("1.{}", "0".repeat(63));
        assert_eq!(minor_of(&long, Currency::USD), Err(MoneyError::Malformed));
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        for text in ["-1", "-0.01", "-1e9999", "-0.001"] {
            assert_eq!(minor_of(text, Currency::USD), Err(MoneyError::Negative), "{text}");
        }
        for text in
            ["0.001", "49.999", "1e-3", "99999999999999999999.999", "1e-99999999999999999999"]
        {
            assert_eq!(minor_of(text, Currency::USD), too_precise(Currency::USD), "{text}");
        }
        assert_eq!(minor_of("0.1", Currency::JPY), too_precise(Currency::JPY));
        assert_eq!(minor_of("0.0001", Currency::KWD), too_precise(Currency::KWD));
        assert_eq!(minor_of("0.00001", Currency::UYW), too_precise(Currency::UYW));
        for text in ["10000000000000", "1e13", "1e99999999999999999999999", "9223372036854775808"] {
            assert_eq!(minor_of(text, Currency::USD), Err(MoneyError::TooLarge), "{text}");
        }
        assert_eq!(Money::from_minor(-1, Currency::USD), Err(MoneyError::Negative));
        assert_eq!(Money::from_minor(i64::MIN, Currency::USD), Err(MoneyError::Negative));
        assert_eq!(
            Money::from_minor(Money::MINOR_MAX + 1, Currency::USD),
            Err(MoneyError::TooLarge)
        );
        assert_eq!(Money::from_minor(i64::MAX, Currency::USD), Err(MoneyError::TooLarge));
    }

    #[test]
    fn arithmetic_stays_in_range_and_in_one_currency() {
        assert_eq!(usd(1).checked_add(usd(2)), Ok(usd(3)));
        assert_eq!(usd(Money::MINOR_MAX).checked_add(usd(1)), Err(MoneyError::TooLarge));
        assert_eq!(usd(3).checked_sub(usd(3)), Ok(Money::zero(Currency::USD)));
        assert_eq!(usd(3).checked_sub(usd(4)), Err(MoneyError::Negative));
        assert_eq!(usd(3).compare(usd(4)), Ok(Ordering::Less));
        let euro = Money::zero(Currency::EUR);
        assert!(euro.is_zero() && !usd(1).is_zero());
        assert_eq!(usd(0).checked_add(euro), Err(MoneyError::CurrencyMismatch));
        assert_eq!(usd(0).checked_sub(euro), Err(MoneyError::CurrencyMismatch));
        assert_eq!(usd(0).compare(euro), Err(MoneyError::CurrencyMismatch));
        assert_ne!(usd(0), euro);
    }

    #[test]
    fn writes_the_shortest_decimal() {
        for (minor, text) in
            [(4990, "49.9"), (4999, "49.99"), (50000, "500"), (1, "0.01"), (10, "0.1"), (0, "0")]
        {
            assert_eq!(usd(minor).to_string(), text);
        }
        let of =
            |minor, currency| Money::from_minor(minor, currency).expect("in range").to_string();
        assert_eq!(of(1, Currency::UYW), "0.0001");
        assert_eq!(of(1200, Currency::KWD), "1.2");
        assert_eq!(of(1200, Currency::JPY), "1200");
        assert_eq!(of(Money::MINOR_MAX, Currency::USD), "9999999999999.99");
        assert_eq!(format!("{:?}", usd(4990)), "USD 49.9 (4990)");
    }

    #[test]
    fn errors_speak_to_people_and_programs() {
        let error = Money::parse_major("1.999", Currency::USD).expect_err("too precise");
        assert_eq!(
            (error.to_string().as_str(), error.code()),
            ("must have at most 2 decimals for USD", "too_precise")
        );
        assert_eq!(MoneyError::TooLarge.to_string(), "must be at most 999999999999999 minor units");
        let codes = [
            MoneyError::Malformed,
            MoneyError::Negative,
            MoneyError::TooLarge,
            MoneyError::CurrencyMismatch,
        ];
        assert_eq!(
            codes.map(|e| e.code()),
            ["malformed", "negative", "too_large", "currency_mismatch"]
        );
    }

    fn any_currency() -> impl Strategy<Value = Currency> {
        proptest::sample::select(Currency::all().collect::<Vec<_>>())
    }

    /// Amounts of every magnitude, which a uniform choice would rarely give.
    fn any_minor() -> impl Strategy<Value = i64> {
        (0..=Money::MINOR_MAX, 0_u32..15).prop_map(|(minor, drop)| minor / 10_i64.pow(drop))
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(minor in any_minor(), currency in any_currency()) {
            let money = Money::from_minor(minor, currency).expect("in range");
            prop_assert_eq!(Money::parse_major(&money.to_string(), currency), Ok(money));
        }

        #[test]
        fn prints_as_javascript_does(minor in any_minor(), currency in any_currency()) {
            let text = Money::from_minor(minor, currency).expect("in range").to_string();
            let float: f64 = text.parse().expect("a number");
            let mut buffer = ryu_js::Buffer::new();
            prop_assert_eq!(buffer.format(float), &text);
            let json: serde_json::Value = serde_json::from_str(&text).expect("a JSON number");
            prop_assert_eq!(json.as_f64(), Some(float));
        }

        #[test]
        fn agrees_with_rusty_money(minor in any_minor(), currency in any_currency()) {
            let iso = rusty_money::iso::find(currency.code()).expect("known");
            // Three currencies have other exponents there; the tests of the table say why.
            prop_assume!(iso.exponent == u32::from(currency.exponent()));
            let theirs = rusty_money::Money::from_minor(minor, iso);
            let ours = Money::parse_major(&theirs.amount().to_string(), currency);
            prop_assert_eq!(ours.map(Money::minor), Ok(minor));
            let ours = ours.expect("just compared");
            // Its texts follow a locale; its decimal is what `from_str` gives for a currency of
            // point and comma.
            prop_assert_eq!(ours.to_string(), theirs.amount().normalize().to_string());
            if iso.locale == rusty_money::Locale::EnUs {
                let read = rusty_money::Money::from_str(&ours.to_string(), iso);
                let read = read.expect("reads ours");
                prop_assert_eq!(read.to_minor_units(), minor);
            }
        }

        #[test]
        fn an_exponent_moves_the_point(
            minor in any_minor(),
            zeros in 0_usize..20,
            currency in any_currency(),
        ) {
            let exponent = usize::from(currency.exponent()) + zeros;
            let zeros = "0".repeat(if minor == 0 { 0 } else { zeros });
            let text = format!("{minor}{zeros}e-{exponent}");
            prop_assert_eq!(minor_of(&text, currency), Ok(minor));
        }

        #[test]
        fn sums_and_differences_invert(a in any_minor(), b in any_minor()) {
            if let Ok(sum) = usd(a).checked_add(usd(b)) {
                prop_assert_eq!(sum.checked_sub(usd(b)), Ok(usd(a)));
            } else {
                prop_assert!(a + b > Money::MINOR_MAX);
            }
        }
    }

    #[test]
    fn any_text_gives_an_amount_in_range_or_an_error() {
        bolero::check!().with_type::<(String, u8)>().for_each(|(text, index)| {
            let currency = Currency::all()
                .nth(usize::from(*index) % Currency::all().count())
                .expect("in range");
            if let Ok(money) = Money::parse_major(text, currency) {
                assert!((0..=Money::MINOR_MAX).contains(&money.minor()));
                assert!(serde_json::from_str::<f64>(text).is_ok(), "a JSON number: {text}");
                assert_eq!(Money::parse_major(&money.to_string(), currency), Ok(money));
            }
        });
    }

    #[test]
    fn the_grammar_is_the_one_of_json() {
        // Texts made of the alphabet of numbers, where the interesting mistakes are.
        let alphabet = b"0123456789.eE+-";
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let text: String = bytes
                .iter()
                .take(12)
                .map(|b| char::from(alphabet[usize::from(*b) % alphabet.len()]))
                .collect();
            let is_json = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text).is_ok();
            let is_ours = Money::parse_major(&text, Currency::USD) != Err(MoneyError::Malformed);
            assert_eq!(is_ours, is_json, "{text}");
        });
    }
}
