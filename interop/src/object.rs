//! Random JSON objects of a given size that are stable under `JSON.stringify(JSON.parse(text))`, as the bodies that pgw sends are.

use pgw_core::testing::random::Random;

use crate::words;

/// An object of this many bytes; of two where it is too few for a member.
pub(crate) fn draw(random: &Random, bytes: usize) -> String {
    let mut writer = Writer { random, text: String::with_capacity(bytes), end: bytes };
    writer.object(0);
    let mut text = writer.text;
    pad(&mut text, bytes);
    text
}

struct Writer<'a> {
    random: &'a Random,
    text: String,
    /// Where the whole text is to end.
    end: usize,
}

impl Writer<'_> {
    /// Members until the object is full, or, inside another, some.
    fn object(&mut self, depth: usize) {
        let mut index = 0;
        self.list(depth, '{', '}', |writer, member| {
            let key = writer.key(member, &mut index);
            writer.string(&key);
            writer.text.push(':');
        });
    }

    fn array(&mut self, depth: usize) {
        self.list(depth, '[', ']', |_, _| {});
    }

    /// Writes items while there is room: an item that turns out too long is taken back, and is the last.
    fn list(
        &mut self,
        depth: usize,
        open: char,
        close: char,
        mut lead: impl FnMut(&mut Self, usize),
    ) {
        let items = if depth == 0 { usize::MAX } else { words::within(self.random, 0, ITEMS_MAX) };
        self.text.push(open);
        for item in 0..items {
            let before = self.text.len();
            if item > 0 {
                self.text.push(',');
            }
            lead(self, item);
            self.value(depth + 1);
            // What closes this list and those around it.
            if self.text.len() + depth + 1 > self.end {
                self.text.truncate(before);
                break;
            }
        }
        self.text.push(close);
    }

    /// A key that no earlier member has. JavaScript puts keys that are array indexes first, by number, so that is where they are.
    fn key(&self, member: usize, index: &mut u64) -> String {
        if *index != INDEX_END && self.random.hits(300) {
            *index += 1 + self.random.below(200);
            return index.to_string();
        }
        *index = INDEX_END;
        // Once at most in an object, since its members are counted.
        if let Some(odd) = ODD_KEYS.get(member) {
            return (*odd).to_owned();
        }
        // The number keeps it from being any other member's.
        format!("{}_{member}", words::text(self.random, words::within(self.random, 0, 20)))
    }

    fn value(&mut self, depth: usize) {
        match self.random.below(10) {
            0 => self.text.push_str("null"),
            1 => self.text.push_str(if self.random.hits(500) { "true" } else { "false" }),
            2 | 3 => self.number(),
            4 if depth < DEPTH_MAX => self.object(depth),
            5 if depth < DEPTH_MAX => self.array(depth),
            _ => {
                // Long enough for the largest to be done in some hundred members.
                let chars = words::spread(self.random, 0, (self.end / 64).max(16));
                let text = words::text(self.random, chars);
                self.string(&text);
            }
        }
    }

    /// A number as JavaScript writes it, of 15 digits at the most. With more, two texts may be one number, and who parses before
    /// verifying cannot tell them apart.
    fn number(&mut self) {
        let digits = self.random.below(10_u64.pow(self.random.below(16) as u32));
        let exponent = if self.random.hits(500) { 0 } else { words::within(self.random, 0, 80) };
        let number: f64 = format!("{digits}e{exponent}").parse().expect("digits are a number");
        let number = if self.random.hits(500) { number / POWER } else { number };
        let number = if self.random.hits(200) { -number } else { number };
        self.text.push_str(ryu_js::Buffer::new().format(number));
    }

    /// A text with the escapes that `JSON.stringify` uses, which are serde_json's.
    fn string(&mut self, text: &str) {
        self.text.push_str(&serde_json::to_string(text).expect("a text is always JSON"));
    }
}

/// Fills an object to its size with a last member.
fn pad(text: &mut String, bytes: usize) {
    let comma = if text.len() > 2 { "," } else { "" };
    let frame = comma.len() + "\"~\":\"\"".len();
    let Some(rest) = bytes.checked_sub(text.len() + frame) else {
        return;
    };
    text.pop();
    text.push_str(comma);
    text.push_str("\"~\":\"");
    text.extend(std::iter::repeat_n('~', rest));
    text.push_str("\"}");
}

/// Keys that are no array indexes though they look so, or that mean something to JavaScript or Python.
const ODD_KEYS: [&str; 9] =
    ["", "01", "-1", "1.0", "4294967295", "__proto__", "constructor", "toJSON", "object"];

/// Stands for "no more array indexes"; it is none itself.
const INDEX_END: u64 = u32::MAX as u64;

/// Deep enough for what a receiver might do by recursion to show, far from where one gives up.
const DEPTH_MAX: usize = 6;

/// The most items of a list inside another.
const ITEMS_MAX: usize = 12;

/// A power of ten that is a number of 64 bits without loss.
const POWER: f64 = 1e9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_size_that_is_asked_for() {
        for seed in 0..300 {
            let random = Random::new(seed);
            let bytes = words::spread(&random, 2, 20_000);
            let text = draw(&random, bytes);
            assert!(text.len() == bytes || (text.len() < bytes && bytes - text.len() < 8));
            let parsed: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
            assert!(parsed.is_object());
        }
    }
}
