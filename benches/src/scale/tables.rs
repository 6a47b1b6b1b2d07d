//! The tables of `docs/scaling.md`, as Markdown.

use std::error::Error;
use std::fmt::Write as _;

use super::measured::{Life, Measured};
use super::model::{ASSUMED, Assumed, Claims, Size};

/// All of them, each with its name.
///
/// # Errors
/// When a run is missing.
pub fn all(measured: &Measured) -> Result<Vec<(&'static str, String)>, Box<dyn Error>> {
    Ok(vec![
        ("payment", payment(measured)?),
        ("work", work(measured)?),
        ("profiles", profiles(measured)?),
        ("assumptions", assumptions(&ASSUMED)),
        ("rates", rates(measured, Claims::InPostgres)?),
        ("redis", rates(measured, Claims::InRedis)?),
    ])
}

/// Rows and bytes of one payment, table by table.
fn payment(measured: &Measured) -> Result<String, Box<dyn Error>> {
    let mut text = table(&["table", "rows", "bytes of rows", "bytes of indexes"]);
    let life = measured.plain(1)?;
    for (name, it) in &life.tables {
        row(
            &mut text,
            &[&format!("`{name}`"), &short(it.rows), &whole(it.heap), &whole(it.indexes)],
        );
    }
    for (endpoints, name) in [(0, "no endpoint"), (1, "1 endpoint"), (2, "2 endpoints")] {
        let sum = measured.plain(endpoints)?.stored();
        let name = format!("**all, {name}**");
        row(&mut text, &[&name, &short(sum.rows), &whole(sum.heap), &whole(sum.indexes)]);
    }
    Ok(text)
}

/// What PostgreSQL does for one payment.
fn work(measured: &Measured) -> Result<String, Box<dyn Error>> {
    let mut text = table(&["statements", "calls", "bytes of WAL", "share of time"]);
    let life = measured.plain(1)?;
    for (kind, name) in KINDS {
        let it = life.of(kind);
        let share = format!("{:.0} %", life.share(kind) * 100.0);
        row(&mut text, &[name, &fine(it.calls), &whole(it.wal_bytes), &share]);
    }
    Ok(text)
}

/// The whole of a payment, the ways it can be stored.
fn profiles(measured: &Measured) -> Result<String, Box<dyn Error>> {
    let mut text =
        table(&["as", "processor, ms", "relative", "bytes of WAL", "transactions", "claims, ms"]);
    let lives: [(&str, &Life); 6] = [
        ("one table each, no endpoint", measured.plain(0)?),
        ("one table each, 1 endpoint", measured.plain(1)?),
        ("one table each, 2 endpoints", measured.plain(2)?),
        ("8 partitions, 1 endpoint", measured.partitioned(8)?),
        ("64 partitions, 1 endpoint", measured.partitioned(64)?),
        ("`Engine::Distributed`, 1 endpoint", measured.distributed()?),
    ];
    let plain = measured.plain(1)?.cpu_ms;
    for (name, life) in lives {
        row(
            &mut text,
            &[
                name,
                &fine(life.cpu_ms),
                &short(life.cpu_ms / plain),
                &whole(life.wal_bytes),
                &fine(life.commits),
                &fine(life.of("claims").ms),
            ],
        );
    }
    Ok(text)
}

fn assumptions(assumed: &Assumed) -> String {
    let mut text = table(&["assumed", "value"]);
    let lines = [
        ("endpoints of a merchant, which hear everything", assumed.endpoints.to_string()),
        ("peak over mean", short(assumed.peak_to_mean)),
        ("busy at the peak, at most", format!("{:.0} %", assumed.busy_max * 100.0)),
        ("cores of the largest primary", whole(assumed.primary_cores_max)),
        ("WAL of one primary, MB/s at most", whole(assumed.primary_wal_mb_max)),
        ("payments/s of a process (HTTP, charge, delivery)", whole(assumed.node_per_s)),
        ("cores of a process", whole(assumed.node_cores)),
        ("connections of a process", whole(assumed.node_connections)),
        ("connections of a pooler to a server, a core", whole(assumed.pooled_a_core)),
        ("copies of the data", whole(assumed.copies)),
        ("jobs/s of a Redis master", whole(assumed.redis_jobs_per_s)),
        ("a core with its memory, $ an hour", fine(assumed.core_hour_usd)),
        ("a replicated GB, $ a month", fine(assumed.gb_month_usd)),
    ];
    for (name, value) in lines {
        row(&mut text, &[name, &value]);
    }
    text
}

/// What rates come to.
fn rates(measured: &Measured, claims: Claims) -> Result<String, Box<dyn Error>> {
    let sizes: Vec<Size> = RATES
        .iter()
        .map(|rate| Size::of(*rate, claims, measured, &ASSUMED))
        .collect::<Result<_, _>>()?;
    let mut heads = vec!["at the peak".to_owned()];
    heads.extend(sizes.iter().map(|size| format!("{} payments/s", whole(size.per_s))));
    let mut text = table(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    let mut line = |name: &str, value: fn(&Size) -> String| {
        let mut cells = vec![name.to_owned()];
        cells.extend(sizes.iter().map(value));
        row(&mut text, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    };
    line("rows inserted/s", |it| whole(it.rows_per_s));
    line("webhooks/s", |it| whole(it.webhooks_per_s));
    line("WAL, MB/s", |it| short(it.wal_mb_per_s));
    line("busy cores of PostgreSQL", |it| short(it.busy_cores));
    line("primaries (1: PostgreSQL; more: shards)", |it| whole(it.primaries));
    line("cores of all primaries", |it| whole(it.primary_cores));
    line("the sequencer, busy", |it| format!("{} %", whole(it.sequencer * 100.0)));
    if claims == Claims::InRedis {
        line("Redis masters", |it| whole(it.redis_masters));
    }
    line("processes", |it| whole(it.nodes));
    line("their connections", |it| whole(it.connections));
    line("connections behind poolers", |it| whole(it.pooled));
    line("GB a day", |it| short(it.gb_a_day));
    line("TB after a year", |it| short(it.tb_a_year));
    line("cores, $ a month", |it| dollars(it.cores_usd));
    line("disk after a year, $ a month", |it| dollars(it.disk_usd));
    line("both after a year, $ a million payments", |it| short(it.million_usd));
    Ok(text)
}

fn table(heads: &[&str]) -> String {
    let mut text = String::new();
    row(&mut text, heads);
    let mut rules = vec!["---"];
    rules.extend(heads.iter().skip(1).map(|_| "---:"));
    row(&mut text, &rules);
    text
}

fn row(text: &mut String, cells: &[&str]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// 12,345.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One digit behind the point where there is one before it, none where there are many.
fn short(value: f64) -> String {
    if value >= 100.0 { whole(value) } else { trimmed(format!("{value:.1}")) }
}

/// Two digits behind the point.
fn fine(value: f64) -> String {
    format!("{value:.2}")
}

/// To the next hundred: more digits would be invented.
fn dollars(value: f64) -> String {
    whole((value / 100.0).round() * 100.0)
}

fn trimmed(text: String) -> String {
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

const RATES: [f64; 3] = [1_000.0, 10_000.0, 100_000.0];
/// Kinds of statements and what they are.
const KINDS: [(&str, &str); 5] = [
    ("commits", "commits of payments, events, deliveries, attempts"),
    ("claims", "claims and settlements of jobs"),
    ("sweeps", "the sequencer"),
    ("reads", "reads by workers"),
    ("hints", "hints (NOTIFY)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_are_known() {
        assert_eq!(
            [0.0, 999.0, 1_000.0, 1_234_567.0].map(whole),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([0.04, 2.0, 12.34, 123.4].map(short), ["0", "2", "12.3", "123"]);
        assert_eq!(dollars(1_249.0), "1,200");
    }

    #[test]
    fn every_table_is_one() -> Result<(), Box<dyn Error>> {
        for (name, text) in all(&Measured::last()?)? {
            let columns = |line: &str| line.matches(" | ").count();
            let mut lines = text.lines();
            let first = lines.next().ok_or(name)?;
            assert!(text.lines().count() > 4, "{name}");
            assert!(lines.all(|line| columns(line) == columns(first)), "{name}\n{text}");
            assert!(!text.contains("NaN") && !text.contains("inf"), "{name}\n{text}");
        }
        Ok(())
    }
}
