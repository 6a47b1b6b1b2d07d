//! What a run is asked for.

use std::ops::Range;

use crate::pair::Pair;

/// The arguments, read.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// The seed that every message follows from.
    pub(crate) seed: u64,
    /// How many messages each pair exchanges.
    messages: u64,
    /// The only message to exchange, by its number.
    message: Option<u64>,
    /// The only pair to try, by its name.
    pair: Option<String>,
    /// The program that runs JavaScript.
    pub(crate) node: String,
    /// The program that runs Python, where the libraries are.
    pub(crate) python: String,
}

impl Arguments {
    /// None when help is asked for; an error says what is wrong.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = Self {
            seed: 1,
            messages: MESSAGES_DEFAULT,
            message: None,
            pair: None,
            node: "node".to_owned(),
            python: "python3".to_owned(),
        };
        while let Some(name) = given.next() {
            if name == "--help" || name == "-h" {
                return Ok(None);
            }
            let mut value = || given.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--seed" => arguments.seed = number(&value()?)?,
                "--messages" => arguments.messages = number(&value()?)?,
                "--message" => arguments.message = Some(number(&value()?)?),
                "--pair" => arguments.pair = Some(pair(value()?)?),
                "--node" => arguments.node = value()?,
                "--python" => arguments.python = value()?,
                _ => return Err(format!("{name} is no option")),
            }
        }
        Ok(Some(arguments))
    }

    /// Whether the pair of this name is to be tried.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.pair.as_ref().is_none_or(|only| only == name)
    }

    /// The numbers of the messages to exchange.
    pub(crate) fn numbers(&self) -> Range<u64> {
        match self.message {
            Some(number) => number..number.saturating_add(1),
            None => 0..self.messages,
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn pair(name: String) -> Result<String, String> {
    let names: Vec<String> = Pair::all().map(|pair| pair.to_string()).collect();
    if names.contains(&name) {
        return Ok(name);
    }
    Err(format!("{name} is no pair; they are {}", names.join(", ")))
}

/// Enough that each kind of message, flaw and size comes dozens of times to each pair, and all pairs are done in about a minute.
const MESSAGES_DEFAULT: u64 = 2_000;

/// How it is used.
pub(crate) const HELP: &str = "\
Checks pgw's webhook signatures against other people's libraries, in both directions.

options:
  --messages N  how many messages each pair exchanges (2000)
  --seed N      the seed that every message follows from (1)
  --pair NAME   try this pair only
  --message N   exchange this message only
  --node PATH   the program that runs JavaScript (node)
  --python PATH the program that runs Python, where the libraries are (python3)
  --help        print this
";
