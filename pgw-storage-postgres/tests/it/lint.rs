//! Stands in for the engines that cannot be installed here (Citus, `CockroachDB`, `YugabyteDB`, poolers of every kind): reads every text
//! of SQL there is and refuses what one of them cannot do, or does otherwise.
//!
//! Texts that are put together at run time are read by `plans`, which sees every statement that was prepared.

use std::fmt;
use std::path::{Path, PathBuf};

use self::literals::{Literal, literals};

mod citus;
mod literals;
pub(crate) mod routed;

/// Where a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Run by the owner, once.
    Migration,
    /// Run by the application.
    Source,
    /// Run by the owner, who alone may delete.
    Retention,
}

/// Something that must not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// Words that stand anywhere, and what they are. A word before a dot does not count: `t.merchant` is `merchant`.
const WORDS: &[(&str, &[&str])] = &[
    ("a sequence", &["serial"]),
    ("a sequence", &["bigserial"]),
    ("a sequence", &["smallserial"]),
    ("a sequence", &["identity"]),
    ("a sequence", &["create", "sequence"]),
    ("a sequence", &["nextval"]),
    ("a trigger", &["create", "trigger"]),
    ("a trigger", &["create", "or", "replace", "trigger"]),
    ("a trigger", &["create", "constraint", "trigger"]),
    ("a trigger", &["create", "event", "trigger"]),
    ("a function", &["create", "function"]),
    ("a function", &["create", "or", "replace", "function"]),
    ("a function", &["create", "procedure"]),
    ("a function", &["create", "or", "replace", "procedure"]),
    ("a function", &["plpgsql"]),
    ("a temporary table", &["temp"]),
    ("a temporary table", &["temporary"]),
    ("a temporary table", &["pg_temp"]),
    ("a cursor", &["cursor", "for"]),
    ("a savepoint", &["savepoint"]),
    ("a savepoint", &["rollback", "to"]),
    ("a deletion: rows stay", &["delete", "from"]),
    ("a deletion: rows stay", &["truncate"]),
    ("a foreign key", &["references"]),
    ("a foreign key", &["foreign", "key"]),
    ("another clock than statement_timestamp()", &["now", "("]),
    ("another clock than statement_timestamp()", &["current_timestamp"]),
    ("another clock than statement_timestamp()", &["clock_timestamp"]),
    ("another clock than statement_timestamp()", &["transaction_timestamp"]),
    ("another clock than statement_timestamp()", &["localtimestamp"]),
    ("another clock than statement_timestamp()", &["current_date"]),
];

/// Words that a statement starts with.
const STARTS: &[(&str, &str)] = &[
    ("do", "a function"),
    ("listen", "a channel of the session"),
    ("unlisten", "a channel of the session"),
    ("notify", "a channel without pg_notify"),
    ("declare", "a cursor"),
    ("release", "a savepoint"),
    ("reset", "a setting of the session"),
    ("discard", "a setting of the session"),
];

/// Keys and indexes that do not start with the merchant, each with the reason. All others do.
const NOT_BY_MERCHANT: &[(&str, &str)] = &[
    ("api_keys_prefix", "found before the merchant is known"),
    (
        "operations_due",
        "the work of all merchants, oldest first; distributed engines ask for the merchants first",
    ),
    ("deliveries_due", "as operations_due"),
    ("events_unstamped", "the sequencer stamps the events of all merchants, oldest first"),
    ("payments_expiring", "the reaper looks for the payments of any merchant"),
    ("idempotency_keys_answered", "the reaper drops the answers of all merchants, oldest first"),
    ("endpoints_sealed", "the operator seals the secrets of all merchants anew"),
    ("leases", "a few rows of no merchant's"),
    ("shield", "one row that holds for all merchants"),
    ("migrations", "a few rows of no merchant's"),
];

/// Statements about the rows of all merchants: a table, words that tell them, and the reason.
const ABOUT_ALL_MERCHANTS: &[(&str, &[&str], &str)] = &[
    ("api_keys", &["prefix", "="], "the key is what tells the merchant"),
    ("operations", &["due_at", "is", "not", "null"], "the queue"),
    ("deliveries", &["due_at", "is", "not", "null"], "the queue"),
    ("idempotency_keys", &["answer_status", "is", "not", "null"], "the reaper"),
    ("events", &["feed_position", "is", "null"], "the sequencer"),
    ("endpoints", &["sealed_with", "<"], "the operator"),
];

/// Tables whose rows are nobody's.
const OF_NO_MERCHANT: [&str; 3] = ["leases", "migrations", "shield"];

/// A word or a sign of SQL, in lower case, and its line.
#[derive(Debug, Clone)]
struct Token {
    word: String,
    line: usize,
}

impl Token {
    /// The word without what stands before its dot.
    fn name(&self) -> &str {
        self.word.rsplit('.').next().unwrap_or_default()
    }

    /// The table, if it is one of ours.
    fn table(&self) -> Option<&str> {
        self.word.strip_prefix("{schema}.").filter(|table| !table.is_empty())
    }
}

/// The statements of a text.
fn statements(sql: &str, first_line: usize) -> Vec<Vec<Token>> {
    let mut statements = vec![Vec::new()];
    for (line, text) in (first_line..).zip(sql.lines()) {
        let code = text.split("--").next().unwrap_or_default().to_lowercase();
        let mut word = String::new();
        for sign in code.chars().chain([' ']) {
            if sign.is_alphanumeric() || "_.$*{}".contains(sign) {
                word.push(sign);
                continue;
            }
            let last = statements.last_mut().expect("there is always one");
            if !word.is_empty() {
                last.push(Token { word: std::mem::take(&mut word), line });
            }
            match sign {
                ';' => statements.push(Vec::new()),
                _ if sign.is_whitespace() => {}
                _ => last.push(Token { word: sign.to_string(), line }),
            }
        }
    }
    statements.retain(|statement| !statement.is_empty());
    statements
}

fn stands_at(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len()
        && words.iter().zip(tokens).all(|(word, token)| token.name() == *word)
}

/// What is wrong with a text.
pub(crate) fn faults(sql: &str, first_line: usize, origin: Origin) -> Vec<Fault> {
    let mut faults = Vec::new();
    for statement in statements(sql, first_line) {
        starts(&statement, &mut faults);
        words(&statement, origin, &mut faults);
        keys(&statement, &mut faults);
        constraints(&statement, &mut faults);
        merchants(&statement, &mut faults);
    }
    faults
}

fn starts(statement: &[Token], faults: &mut Vec<Fault>) {
    let Some(first) = statement.first() else { return };
    let mut add = |what: &str| faults.push(Fault { line: first.line, what: what.to_owned() });
    for (word, what) in STARTS {
        if first.word == *word {
            add(what);
        }
    }
    let second = statement.get(1).map(|token| token.word.as_str());
    if first.word == "set" && !matches!(second, Some("local" | "transaction")) {
        add("a setting of the session");
    }
}

/// Citus adds a constraint by a statement that does nothing else.
fn constraints(statement: &[Token], faults: &mut Vec<Fault>) {
    let is_step = |token: &&Token| ["add", "drop", "alter", "validate"].contains(&&*token.word);
    let kinds = ["constraint", "check", "unique", "primary", "foreign", "exclude"];
    let adds = statement.first().is_some_and(|first| first.word == "alter")
        && (0..statement.len())
            .any(|n| kinds.iter().any(|kind| stands_at(&statement[n..], &["add", kind])));
    if adds && statement.iter().skip(1).filter(is_step).count() > 1 {
        let what = "a constraint that is added together with something else".to_owned();
        faults.push(Fault { line: statement[0].line, what });
    }
}

fn words(statement: &[Token], origin: Origin, faults: &mut Vec<Fault>) {
    for (n, token) in statement.iter().enumerate() {
        let mut add = |what: &str| faults.push(Fault { line: token.line, what: what.to_owned() });
        let is_default = n > 0 && statement[n - 1].word == "default";
        for (what, words) in WORDS {
            let is_allowed = match origin {
                Origin::Migration => words[0] == "now" && is_default,
                Origin::Retention => words[0] == "delete",
                Origin::Source => false,
            };
            if stands_at(&statement[n..], words) && !is_allowed {
                add(what);
            }
        }
        let is_lock =
            ["pg_advisory_", "pg_try_advisory_"].iter().any(|it| token.word.starts_with(it));
        if is_lock && !token.word.contains("_xact_") {
            add("a lock of the session");
        }
        // The last argument says whether it ends with the transaction.
        let last = statement[n..].iter().take_while(|token| token.word != ")").last();
        if token.word == "set_config" && last.is_none_or(|it| it.word != "true") {
            add("a setting of the session");
        }
    }
}

/// Keys and indexes start with the merchant.
fn keys(statement: &[Token], faults: &mut Vec<Fault>) {
    let mut look = |name: &str, line: usize, first: Option<&Token>| {
        let is_exempt = NOT_BY_MERCHANT.iter().any(|(exempt, _)| *exempt == name);
        if first.is_none_or(|first| first.word != "merchant") && !is_exempt {
            let what = format!("a key or index that does not start with merchant ({name})");
            faults.push(Fault { line, what });
        }
    };
    let is_index = stands_at(statement, &["create", "index"])
        || stands_at(statement, &["create", "unique", "index"]);
    if is_index {
        let name = statement.iter().take_while(|token| token.word != "on").last();
        let first = statement.iter().skip_while(|token| token.word != "(").nth(1);
        look(name.map_or("", |name| &name.word), statement[0].line, first);
        return;
    }
    if !["create", "alter"].contains(&statement[0].word.as_str()) {
        return;
    }
    let table = statement.iter().find_map(Token::table).unwrap_or_default();
    for n in 0..statement.len() {
        let rest = &statement[n..];
        let words = if stands_at(rest, &["primary", "key"]) {
            2
        } else if stands_at(rest, &["unique"]) {
            1
        } else {
            continue;
        };
        // Behind a column, it is that column's alone.
        let first = rest.get(words).filter(|token| token.word == "(").and(rest.get(words + 1));
        look(table, statement[n].line, first);
    }
}

/// Every table of a statement is read and written by merchant.
fn merchants(statement: &[Token], faults: &mut Vec<Fault>) {
    if !["select", "insert", "update", "with"].contains(&statement[0].word.as_str()) {
        return;
    }
    // About a table and none of its rows.
    if statement.get(1).is_some_and(|second| citus::CALLS.contains(&&*second.word)) {
        return;
    }
    // The condition is put behind it at run time; `plans` reads it then.
    if statement.last().is_some_and(|token| token.word == "where") {
        return;
    }
    for (n, token) in statement.iter().enumerate() {
        let Some(table) = token.table().filter(|table| !OF_NO_MERCHANT.contains(table)) else {
            continue;
        };
        let after = &statement[n + 1..];
        let alias = match after {
            [name, alias, ..] if name.word == "as" => Some(alias),
            [name, ..] => Some(name),
            [] => None,
        };
        // A name that is none, like `where`, does no harm: no column is named after it.
        let qualified = alias.map(|alias| format!("{}.merchant", alias.word)).unwrap_or_default();
        let is_by_merchant =
            after.iter().any(|token| token.word == "merchant" || token.word == qualified);
        let is_exempt = ABOUT_ALL_MERCHANTS.iter().any(|(exempt, words, _)| {
            *exempt == table && (0..after.len()).any(|at| stands_at(&after[at..], words))
        });
        if !is_by_merchant && !is_exempt {
            faults.push(Fault { line: token.line, what: format!("{table} without the merchant") });
        }
    }
}

/// Whether a literal is SQL: the schema is in it, or a verb starts it.
fn is_sql(text: &str) -> bool {
    const VERBS: &[&str] = &[
        "alter",
        "begin",
        "commit",
        "copy",
        "create",
        "declare",
        "delete",
        "discard",
        "do",
        "drop",
        "grant",
        "insert",
        "listen",
        "lock",
        "notify",
        "release",
        "reset",
        "revoke",
        "rollback",
        "savepoint",
        "select",
        "set",
        "truncate",
        "unlisten",
        "update",
        "with",
    ];
    let first = text.split_whitespace().next().unwrap_or_default().to_lowercase();
    text.contains("{schema}") || (VERBS.contains(&&*first) && text.contains(' '))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder of this crate with this ending, in order.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == ending)).collect();
    files.sort();
    assert!(!files.is_empty(), "there is something to read in {folder}");
    files
}

fn named(path: &Path, fault: &Fault) -> String {
    format!("{}:{fault}", path.strip_prefix(root()).expect("a file of this crate").display())
}

#[test]
fn migrations_and_grants_are_portable() {
    let mut found = Vec::new();
    for path in [files("migrations", "sql"), files("sql", "sql")].concat() {
        let sql = std::fs::read_to_string(&path).expect("the file can be read");
        found.extend(faults(&sql, 1, Origin::Migration).iter().map(|fault| named(&path, fault)));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn statements_in_the_source_are_portable() {
    let (mut found, mut texts) = (Vec::new(), 0);
    for path in files("src", "rs") {
        let source = std::fs::read_to_string(&path).expect("the file can be read");
        for Literal { line, text } in literals(&source).into_iter().filter(|it| is_sql(&it.text)) {
            texts += 1;
            // The table of the migrations themselves is made by the owner too.
            let is_migrator = path.ends_with("migrate.rs");
            let is_retention = path.ends_with("retention.rs");
            let origin = match (is_migrator, is_retention) {
                (true, _) => Origin::Migration,
                (_, true) => Origin::Retention,
                _ => Origin::Source,
            };
            found.extend(faults(&text, line, origin).iter().map(|fault| named(&path, fault)));
        }
    }
    assert!(texts > 50, "the scanner found {texts} statements only");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_exemption_is_needed() {
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("the file can be read");
    let migrations: String = files("migrations", "sql").iter().map(read).collect();
    let source: String = files("src", "rs").iter().map(read).collect();
    for (name, reason) in NOT_BY_MERCHANT {
        let is_there = [&migrations, &source].iter().any(|text| {
            text.contains(&format!("index {name} on"))
                || text.contains(&format!("{{schema}}.{name} ("))
        });
        assert!(is_there, "{name} is exempt ({reason}) and is not there any more");
    }
}

/// What is wrong, and a text that is.
const BAD: &[(&str, &str)] = &[
    ("a sequence", "create table {schema}.a (merchant text, n BIGSERIAL)"),
    ("a sequence", "create table {schema}.a (n bigint generated always as identity)"),
    ("a sequence", "create sequence {schema}.numbers"),
    ("a sequence", "select nextval('{schema}.numbers')"),
    ("a trigger", "create constraint trigger t after insert on {schema}.a"),
    ("a function", "create or replace function f() returns void language sql as ''"),
    ("a function", "do $$ begin perform 1; end $$"),
    ("a function", "create function f() returns int language plpgsql as ''"),
    ("a temporary table", "create temp table t (merchant text)"),
    ("a setting of the session", "set statement_timeout = 5"),
    ("a setting of the session", "begin; SET search_path = pgw"),
    ("a setting of the session", "select set_config('lock_timeout', '5', false)"),
    ("a lock of the session", "select pg_advisory_lock(1)"),
    ("a lock of the session", "select pg_try_advisory_lock(1)"),
    ("a channel of the session", "listen hints"),
    ("a channel without pg_notify", "notify hints, 'work'"),
    ("a cursor", "declare c cursor for select 1"),
    ("a savepoint", "savepoint one"),
    ("a savepoint", "rollback to savepoint one"),
    ("another clock", "update {schema}.leases set until = now() + interval '1 second'"),
    ("another clock", "select clock_timestamp()"),
    ("another clock", "select 1 where current_timestamp > $1"),
    ("a deletion", "delete from {schema}.payments where merchant = $1"),
    ("a deletion", "truncate {schema}.leases"),
    ("a foreign key", "create table {schema}.a (merchant text references {schema}.b)"),
    ("start with merchant", "create table {schema}.a (merchant text, primary key (id, merchant))"),
    ("start with merchant", "create table {schema}.a (id uuid primary key, merchant text)"),
    ("start with merchant", "create table {schema}.a (merchant text, id uuid, unique (id))"),
    ("start with merchant", "alter table {schema}.a add constraint one unique (id)"),
    (
        "together with something else",
        "alter table {schema}.a drop constraint one, add constraint one check (id > 0)",
    ),
    ("start with merchant", "create unique index a_by_id on {schema}.a (id, merchant)"),
    ("start with merchant", "create index a_by_id on {schema}.a (lower(merchant))"),
    ("payments without the merchant", "select merchant from {schema}.payments where id = $1"),
    ("payments without the merchant", "update {schema}.payments set status = $2 where id = $1"),
    (
        "operations without the merchant",
        "select 1 from {schema}.payments p join {schema}.operations o on o.payment = p.id where p.merchant = $1",
    ),
    ("operations without the merchant", "insert into {schema}.operations (id) values ($1)"),
];

const GOOD: &str = "-- a serial comment; truncate, now()
create table {schema}.a (merchant text, id uuid, at timestamptz default now(), primary key (merchant, id));
create unique index a_newest on {schema}.a (merchant, at desc, id);
begin isolation level read committed; set local lock_timeout = 5; set transaction read only;
select pg_advisory_xact_lock(1), pg_notify('hints', 'work'), set_config('lock_timeout', '5', true);
with moved as (update {schema}.a as t set at = statement_timestamp() from b where t.merchant = b.merchant)
insert into {schema}.a (merchant, id) select merchant, id from moved on conflict do nothing;
select name from {schema}.leases for update;
select id from {schema}.operations o where o.due_at is not null order by o.due_at";

#[test]
fn what_other_engines_cannot_do_is_refused() {
    for (what, sql) in BAD {
        let found = faults(sql, 1, Origin::Source);
        assert!(found.iter().any(|fault| fault.what.contains(what)), "{sql} gave {found:?}");
    }
}

#[test]
fn what_they_can_do_is_not() {
    assert_eq!(faults(GOOD, 1, Origin::Migration), []);
    let found: Vec<_> = faults(GOOD, 10, Origin::Source).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["11: another clock than statement_timestamp()"]);
}
