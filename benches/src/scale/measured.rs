//! What was measured the last time, as numbers.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::Value;

/// All runs of a measurement. Everything in them is a payment's.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The version of the server.
    pub postgres: String,
    /// How many payments each run was of.
    pub payments: f64,
    /// How many merchants they were of.
    pub merchants: f64,
    runs: Vec<Life>,
}

/// What one payment was to PostgreSQL, from its creation until all that it caused was at rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Endpoints that heard of it.
    pub endpoints: u32,
    /// Partitions of the large tables; 1 is none.
    pub partitions: u32,
    /// Whether the storage spoke as to a distributed engine.
    pub is_distributed: bool,
    /// Bytes of the write-ahead log.
    pub wal_bytes: f64,
    /// Transactions that were committed, reads included.
    pub commits: f64,
    /// Milliseconds of processor time of all of the server.
    pub cpu_ms: f64,
    /// Each kind of statement.
    pub statements: BTreeMap<String, Statements>,
    /// Each table that has more rows than before.
    pub tables: BTreeMap<String, Table>,
}

/// What statements of one kind were.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Statements {
    /// How many.
    pub calls: f64,
    /// Bytes of the write-ahead log, without those of commits.
    pub wal_bytes: f64,
    /// Milliseconds that they were planned and executed for, waiting included.
    pub ms: f64,
}

/// What a table grew by, after a vacuum.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Table {
    /// Rows.
    pub rows: f64,
    /// Bytes of the rows.
    pub heap: f64,
    /// Bytes of the indexes.
    pub indexes: f64,
}

impl Measured {
    /// What `measured.json` has.
    ///
    /// # Errors
    /// When it is not what `measure` writes.
    pub fn last() -> Result<Self, Box<dyn Error>> {
        Self::parse(include_str!("measured.json"))
    }

    /// What a text has that `measure` wrote.
    ///
    /// # Errors
    /// It says what is missing.
    pub fn parse(json: &str) -> Result<Self, Box<dyn Error>> {
        let json: Value = serde_json::from_str(json)?;
        let runs = json["runs"].as_array().ok_or("no runs")?;
        Ok(Self {
            postgres: json["postgres"].as_str().ok_or("no version")?.to_owned(),
            payments: number(&json, "payments")?,
            merchants: number(&json, "merchants")?,
            runs: runs.iter().map(Life::parse).collect::<Result<_, _>>()?,
        })
    }

    /// The run with so many endpoints, plain but for this.
    ///
    /// # Errors
    /// When there was none.
    pub fn plain(&self, endpoints: u32) -> Result<&Life, Box<dyn Error>> {
        self.find(|life| {
            life.endpoints == endpoints && life.partitions == 1 && !life.is_distributed
        })
    }

    /// The run with so many partitions.
    ///
    /// # Errors
    /// When there was none.
    pub fn partitioned(&self, partitions: u32) -> Result<&Life, Box<dyn Error>> {
        self.find(|life| life.partitions == partitions)
    }

    /// The run as on a distributed engine.
    ///
    /// # Errors
    /// When there was none.
    pub fn distributed(&self) -> Result<&Life, Box<dyn Error>> {
        self.find(|life| life.is_distributed)
    }

    fn find(&self, is_it: impl Fn(&Life) -> bool) -> Result<&Life, Box<dyn Error>> {
        self.runs.iter().find(|life| is_it(life)).ok_or_else(|| "a run is missing".into())
    }
}

impl Life {
    fn parse(json: &Value) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            endpoints: number(json, "endpoints")? as u32,
            partitions: number(json, "partitions")? as u32,
            is_distributed: json["distributed"].as_bool().ok_or("no distributed")?,
            wal_bytes: number(json, "wal_bytes")?,
            commits: number(json, "commits")?,
            cpu_ms: number(json, "cpu_ms")?,
            statements: each(json, "statements", |it| {
                Ok(Statements {
                    calls: number(it, "calls")?,
                    wal_bytes: number(it, "wal_bytes")?,
                    ms: number(it, "ms")?,
                })
            })?,
            tables: each(json, "tables", |it| {
                Ok(Table {
                    rows: number(it, "rows")?,
                    heap: number(it, "heap")?,
                    indexes: number(it, "indexes")?,
                })
            })?,
        })
    }

    /// All tables together.
    #[must_use]
    pub fn stored(&self) -> Table {
        self.tables.values().fold(Table::default(), |sum, table| Table {
            rows: sum.rows + table.rows,
            heap: sum.heap + table.heap,
            indexes: sum.indexes + table.indexes,
        })
    }

    /// The share of the statements' time that those of a kind take; what is of no kind, as transactions' ends and vacuum, is left out.
    #[must_use]
    pub fn share(&self, kind: &str) -> f64 {
        let known = self.statements.iter().filter(|(kind, _)| *kind != "rest");
        let all: f64 = known.map(|(_, it)| it.ms).sum();
        self.of(kind).ms / all
    }

    /// The statements of a kind.
    #[must_use]
    pub fn of(&self, kind: &str) -> Statements {
        self.statements.get(kind).copied().unwrap_or_default()
    }

    /// Webhooks that went out.
    #[must_use]
    pub fn webhooks(&self) -> f64 {
        self.tables.get("deliveries").map_or(0.0, |table| table.rows)
    }
}

fn number(json: &Value, name: &str) -> Result<f64, Box<dyn Error>> {
    json[name].as_f64().ok_or_else(|| format!("no number {name}").into())
}

fn each<T>(
    json: &Value,
    name: &str,
    read: impl Fn(&Value) -> Result<T, Box<dyn Error>>,
) -> Result<BTreeMap<String, T>, Box<dyn Error>> {
    let parts = json[name].as_object().ok_or_else(|| format!("no {name}"))?;
    parts.iter().map(|(name, part)| Ok((name.clone(), read(part)?))).collect()
}
