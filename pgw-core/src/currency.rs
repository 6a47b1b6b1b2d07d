//! Currencies: the active codes of ISO 4217 and how many decimals each has.
//!
//! The table is closed: a code that is not in it is not a [`Currency`]. Fund codes (`CLF`, `USN`,
//! …), metals, the codes for testing and for "no currency", and withdrawn codes are left out,
//! because nobody pays in them. Names, symbols and number formats live nowhere in this crate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An active ISO 4217 currency. Ordered as its code is.
///
/// ```
/// use pgw_core::currency::Currency;
/// let yen: Currency = "JPY".parse()?;
/// assert_eq!(yen, Currency::JPY);
/// assert_eq!(yen.exponent(), 0);
/// assert!("jpy".parse::<Currency>().is_err());
/// # Ok::<(), pgw_core::currency::CurrencyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(u8);

/// The text is not the code of a currency this crate knows. It never echoes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the three upper-case letters of an active ISO 4217 currency")]
#[non_exhaustive]
pub struct CurrencyError;

impl CurrencyError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "unknown_currency"
    }
}

macro_rules! named {
    ($($name:ident $doc:literal),+ $(,)?) => {
        $(#[doc = $doc] pub const $name: Self = Self::named(stringify!($name));)+
    };
}

impl Currency {
    named! {
        AUD "The Australian dollar (2 decimals).",
        BHD "The Bahraini dinar (3 decimals).",
        CAD "The Canadian dollar (2 decimals).",
        CHF "The Swiss franc (2 decimals).",
        EUR "The euro (2 decimals).",
        GBP "The pound sterling (2 decimals).",
        INR "The Indian rupee (2 decimals).",
        JPY "The Japanese yen (no decimals).",
        KRW "The South Korean won (no decimals).",
        KWD "The Kuwaiti dinar (3 decimals).",
        SEK "The Swedish krona (2 decimals).",
        USD "The United States dollar (2 decimals).",
        UYW "The Uruguayan unidad previsional (4 decimals, the only such code).",
    }

    /// The three upper-case letters.
    #[must_use]
    pub const fn code(self) -> &'static str {
        TABLE[self.0 as usize].0
    }

    /// How many decimals an amount has, 0 to 4: one minor unit is `10^-exponent`.
    #[must_use]
    pub const fn exponent(self) -> u8 {
        TABLE[self.0 as usize].1
    }

    /// Every currency, in the order of the codes.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLE_LEN).map(Self)
    }

    /// The currency of a code written in this file; a typo does not compile.
    const fn named(code: &str) -> Self {
        let wanted = code.as_bytes();
        let mut index = 0;
        while index < TABLE_LEN {
            let found = TABLE[index as usize].0.as_bytes();
            if found[0] == wanted[0] && found[1] == wanted[1] && found[2] == wanted[2] {
                return Self(index);
            }
            index += 1;
        }
        panic!("a named currency is in the table")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    fn from_str(text: &str) -> Result<Self, CurrencyError> {
        let index =
            TABLE.binary_search_by(|(code, _)| (*code).cmp(text)).map_err(|_| CurrencyError)?;
        u8::try_from(index).map(Self).map_err(|_| CurrencyError)
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(CodeVisitor)
    }
}

struct CodeVisitor;

impl serde::de::Visitor<'_> for CodeVisitor {
    type Value = Currency;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the code of an ISO 4217 currency")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Currency, E> {
        text.parse().map_err(E::custom)
    }
}

/// The length fits the one byte that a [`Currency`] is.
const TABLE_LEN: u8 = {
    assert!(TABLE.len() <= u8::MAX as usize);
    TABLE.len() as u8
};

/// Code and exponent, sorted by code. From ISO 4217 list one as of November 2026; the tests compare
/// it with two independent tables.
#[rustfmt::skip]
static TABLE: [(&str, u8); 156] = [
    ("AED", 2), ("AFN", 2), ("ALL", 2), ("AMD", 2), ("AOA", 2), ("ARS", 2), ("AUD", 2), ("AWG", 2),
    ("AZN", 2), ("BAM", 2), ("BBD", 2), ("BDT", 2), ("BHD", 3), ("BIF", 0), ("BMD", 2), ("BND", 2),
    ("BOB", 2), ("BRL", 2), ("BSD", 2), ("BTN", 2), ("BWP", 2), ("BYN", 2), ("BZD", 2), ("CAD", 2),
    ("CDF", 2), ("CHF", 2), ("CLP", 0), ("CNY", 2), ("COP", 2), ("CRC", 2), ("CUP", 2), ("CVE", 2),
    ("CZK", 2), ("DJF", 0), ("DKK", 2), ("DOP", 2), ("DZD", 2), ("EGP", 2), ("ERN", 2), ("ETB", 2),
    ("EUR", 2), ("FJD", 2), ("FKP", 2), ("GBP", 2), ("GEL", 2), ("GHS", 2), ("GIP", 2), ("GMD", 2),
    ("GNF", 0), ("GTQ", 2), ("GYD", 2), ("HKD", 2), ("HNL", 2), ("HTG", 2), ("HUF", 2), ("IDR", 2),
    ("ILS", 2), ("INR", 2), ("IQD", 3), ("IRR", 2), ("ISK", 0), ("JMD", 2), ("JOD", 3), ("JPY", 0),
    ("KES", 2), ("KGS", 2), ("KHR", 2), ("KMF", 0), ("KPW", 2), ("KRW", 0), ("KWD", 3), ("KYD", 2),
    ("KZT", 2), ("LAK", 2), ("LBP", 2), ("LKR", 2), ("LRD", 2), ("LSL", 2), ("LYD", 3), ("MAD", 2),
    ("MDL", 2), ("MGA", 2), ("MKD", 2), ("MMK", 2), ("MNT", 2), ("MOP", 2), ("MRU", 2), ("MUR", 2),
    ("MVR", 2), ("MWK", 2), ("MXN", 2), ("MYR", 2), ("MZN", 2), ("NAD", 2), ("NGN", 2), ("NIO", 2),
    ("NOK", 2), ("NPR", 2), ("NZD", 2), ("OMR", 3), ("PAB", 2), ("PEN", 2), ("PGK", 2), ("PHP", 2),
    ("PKR", 2), ("PLN", 2), ("PYG", 0), ("QAR", 2), ("RON", 2), ("RSD", 2), ("RUB", 2), ("RWF", 0),
    ("SAR", 2), ("SBD", 2), ("SCR", 2), ("SDG", 2), ("SEK", 2), ("SGD", 2), ("SHP", 2), ("SLE", 2),
    ("SOS", 2), ("SRD", 2), ("SSP", 2), ("STN", 2), ("SVC", 2), ("SYP", 2), ("SZL", 2), ("THB", 2),
    ("TJS", 2), ("TMT", 2), ("TND", 3), ("TOP", 2), ("TRY", 2), ("TTD", 2), ("TWD", 2), ("TZS", 2),
    ("UAH", 2), ("UGX", 0), ("USD", 2), ("UYU", 2), ("UYW", 4), ("UZS", 2), ("VED", 2), ("VES", 2),
    ("VND", 0), ("VUV", 0), ("WST", 2), ("XAF", 0), ("XCD", 2), ("XCG", 2), ("XOF", 0), ("XPF", 0),
    ("YER", 2), ("ZAR", 2), ("ZMW", 2), ("ZWG", 2),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Withdrawn by ISO, but still in the tables that the tests compare with: the Bulgarian lev
    /// (euro since 2026), the Croatian kuna (euro since 2023), the convertible peso, the old leone,
    /// and the Zimbabwean dollar.
    const WITHDRAWN: [&str; 5] = ["BGN", "CUC", "HRK", "SLL", "ZWL"];

    #[test]
    fn the_table_is_sorted_and_well_formed() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0), "no code twice");
        for (code, exponent) in TABLE {
            assert!(code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()), "{code}");
            assert!(matches!(exponent, 0 | 2 | 3 | 4), "{code}");
        }
        assert_eq!(Currency::all().count(), TABLE.len());
        assert!(Currency::all().all(|c| c.code().parse() == Ok(c)));
    }

    #[test]
    fn agrees_with_iso_currency() {
        use iso_currency::IntoEnumIterator;
        let mut theirs = BTreeSet::new();
        for other in iso_currency::Currency::iter() {
            // The unidad previsional is no fund in list one, and the bolívar VES is still active
            // beside VED.
            let kept = ["UYW", "VES"].contains(&other.code());
            let payable = other.flags().is_empty();
            match other.code().parse::<Currency>() {
                Ok(ours) => {
                    assert_eq!(Some(u16::from(ours.exponent())), other.exponent(), "{ours}");
                    theirs.insert(ours);
                }
                Err(_) => assert!(!payable, "{} is missing", other.code()),
            }
            assert_eq!(
                other.code().parse::<Currency>().is_ok(),
                payable || kept,
                "{}",
                other.code()
            );
        }
        assert_eq!(theirs, Currency::all().collect(), "each code is known to iso_currency");
    }

    #[test]
    fn agrees_with_rusty_money() {
        // ISO gives these two decimals. rusty-money goes by the coins in use (the forint has no
        // fillér) and by the fifths of the ariary and the ouguiya.
        let excepted = [("HUF", 0), ("MGA", 1), ("MRU", 1)];
        for ours in Currency::all() {
            let theirs =
                rusty_money::iso::find(ours.code()).expect("knows every active code").exponent;
            if let Some((_, differs)) = excepted.iter().find(|(code, _)| *code == ours.code()) {
                assert_eq!((ours.exponent(), theirs), (2, *differs), "{ours}: still an exception");
            } else {
                assert_eq!(u32::from(ours.exponent()), theirs, "{ours}");
            }
        }
    }

    #[test]
    fn only_exact_codes_are_currencies() {
        for text in ["", "US", "usd", "Usd", "USDT", " USD", "USD ", "U\u{0}D", "ＵＳＤ", "ZZZ"]
        {
            assert_eq!(text.parse::<Currency>(), Err(CurrencyError), "{text}");
        }
        for text in ["XXX", "XTS", "XAU", "XDR", "XAD", "CLF", "USN", "CHE", "BOV", "ANG", "DEM"] {
            assert_eq!(text.parse::<Currency>(), Err(CurrencyError), "{text}");
        }
        for text in WITHDRAWN {
            assert_eq!(text.parse::<Currency>(), Err(CurrencyError), "{text}");
        }
    }

    #[test]
    fn the_consts_have_the_documented_exponents() {
        let of = |c: Currency| (c.code(), c.exponent());
        assert_eq!(of(Currency::USD), ("USD", 2));
        assert_eq!(of(Currency::EUR), ("EUR", 2));
        assert_eq!(of(Currency::JPY), ("JPY", 0));
        assert_eq!(of(Currency::KWD), ("KWD", 3));
        assert_eq!(of(Currency::UYW), ("UYW", 4));
        assert!(Currency::EUR < Currency::USD);
        assert_eq!(
            format!("{:?} {} {:>5}", Currency::GBP, Currency::GBP, Currency::GBP),
            "GBP GBP   GBP"
        );
    }

    #[test]
    fn serde_is_the_code_and_errors_do_not_echo() {
        assert_eq!(serde_json::to_string(&Currency::USD).expect("serializes"), "\"USD\"");
        assert_eq!(
            serde_json::from_str::<Currency>("\"US\\u0044\"").expect("escaped"),
            Currency::USD
        );
        let error =
            serde_json::from_str::<Currency>("\"SECRET\"").expect_err("unknown").to_string();
        assert!(!error.contains("SECRET") && error.contains("ISO 4217"), "{error}");
        assert_eq!(CurrencyError.code(), "unknown_currency");
    }
}
