//! Where rows are spread over machines by merchant, every statement is one merchant's: each table that it names is tied to one argument, by
//! `merchant = $n` or by way of another table that is. Such a statement is one machine's, which does all of SQL there. The few that are about all
//! merchants are listed; of these no engine is asked for more than to read.

use std::collections::{BTreeMap, BTreeSet};

use pgw_core::scope::Mode;
use pgw_core::testing::sample::{Samples, scope};
use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use pgw_storage_postgres::sqlx::{self, Row as _};
use pgw_storage_postgres::{PgStorage, Schema};

use super::{Token, citus, stands_at, statements};
use crate::fixtures::{Leg, schema, url};
use crate::migrations::roles;

/// Statements about the rows of all merchants: words that tell them, and what asks.
const ABOUT_ALL: &[(&[&str], &str)] = &[
    (&["group", "by", "d.merchant", "order", "by", "min"], "a claim: whose turn it is"),
    (
        &["select", "*", "from", "(", "select", "d.merchant", ",", "d.live"],
        "the reaper: what is due",
    ),
    (&["p.expires_at", "<"], "the reaper: whose time ran out"),
    (
        &["feed_position", "is", "null", "order", "by", "created_at"],
        "the sequencer: what comes next",
    ),
    (&["answer_status", "is", "not", "null", "and", "created_at", "<"], "the reaper: old answers"),
    (&["redacted_at", "is", "null", "group", "by", "merchant"], "the sweep of erasures: whose"),
    (&["w.sealed_with", "<"], "the operator: secrets under another key"),
    (&["merchant", ">", "$1", "order", "by", "merchant", "limit", "1"], "the sealer: who is next"),
    (&["with", "due", "as", "materialized"], "the operator: how much is due"),
    (&["buried", "is", "not", "null", "order", "by", "merchant"], "the operator: what was buried"),
];

/// Words that no engine takes in a statement about several of its machines (Citus: "SELECT … FOR UPDATE" and recursion in single-shard queries only).
const READS_ONLY: &[&[&str]] =
    &[&["for", "update"], &["recursive"], &["update"], &["insert"], &["delete"]];

/// Something that is equal to other things: the merchant of a table, or an argument.
type Node = String;

/// The parentheses of a statement: for each token the number of the innermost pair around it, and for each pair the one around it.
struct Nesting {
    of: Vec<usize>,
    around: Vec<usize>,
}

impl Nesting {
    fn new(statement: &[Token]) -> Self {
        let (mut of, mut around, mut open) = (Vec::new(), vec![0], vec![0]);
        for token in statement {
            if token.word == ")" && open.len() > 1 {
                open.pop();
            }
            let innermost = *open.last().expect("the statement itself is never closed");
            of.push(innermost);
            if token.word == "(" {
                around.push(innermost);
                open.push(around.len() - 1);
            }
        }
        Self { of, around }
    }
}

/// What a statement says about merchants.
struct Ties {
    nesting: Nesting,
    /// The tables by the names that they go by, each in its parentheses; those that are inserted into go by none.
    named: BTreeMap<(usize, String), Node>,
    /// Each distributed table that is named.
    tables: Vec<(String, Node)>,
    equal: Vec<(Node, Node)>,
}

impl Ties {
    fn new(statement: &[Token], everywhere: &[String]) -> Self {
        let nesting = Nesting::new(statement);
        let (named, tables, equal) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut ties = Self { nesting, named, tables, equal };
        for (n, token) in statement.iter().enumerate() {
            let Some(table) = token.table() else { continue };
            let (node, is_inserted) =
                (format!("{table}@{n}"), n > 0 && statement[n - 1].word == "into");
            if !everywhere.iter().any(|it| it == table) {
                ties.tables.push((table.to_owned(), node.clone()));
            }
            if is_inserted {
                ties.tie_inserted(statement, n, node);
            } else {
                let alias = alias(&statement[n + 1..]);
                ties.named.insert((ties.nesting.of[n], alias.to_owned()), node);
            }
        }
        for n in 1..statement.len().saturating_sub(1) {
            if statement[n].word == "="
                && let Some(left) = ties.node(statement, n - 1)
                && let Some(right) = ties.node(statement, n + 1)
            {
                ties.equal.push((left, right));
            }
        }
        ties
    }

    /// The first column is the merchant, so the first value is whose row it is.
    fn tie_inserted(&mut self, statement: &[Token], at: usize, node: Node) {
        let rest = &statement[at..];
        let columns = rest.iter().position(|token| token.word == "(").unwrap_or(0);
        let end = rest.iter().position(|token| token.word == ")").unwrap_or(0);
        if rest.get(columns + 1).is_none_or(|first| first.word != "merchant") {
            return;
        }
        let first = match rest.get(end + 1).map(|token| &*token.word) {
            Some("values") => at + end + 3,
            Some("select") => at + end + 2,
            _ => return,
        };
        // Those that are selected from are named further on, so this is looked up by its text alone.
        match statement.get(first).map(|token| &*token.word) {
            Some(argument) if argument.starts_with('$') => self.equal.push((node, argument.into())),
            Some(column) if column.ends_with(".merchant") => {
                let alias = column.trim_end_matches(".merchant");
                let from = statement[first..].iter().position(|token| token.table().is_some());
                let from = from.map(|from| first + from);
                if let Some(from) = from.filter(|from| self::alias(&statement[from + 1..]) == alias)
                    && let Some(table) = statement[from].table()
                {
                    self.equal.push((node, format!("{table}@{from}")));
                }
            }
            _ => {}
        }
    }

    /// What a token stands for, if it is a merchant or an argument.
    fn node(&self, statement: &[Token], at: usize) -> Option<Node> {
        let word = &*statement[at].word;
        if word.starts_with('$') {
            return Some(word.to_owned());
        }
        let alias = match word.strip_suffix("merchant")? {
            "" => "",
            alias => alias.strip_suffix('.')?,
        };
        let mut pair = self.nesting.of[at];
        loop {
            if let Some(node) = self.named.get(&(pair, alias.to_owned())) {
                return Some(node.clone());
            }
            if pair == 0 {
                // Of what is no table: an array, or a part of the statement that has a name.
                return Some(format!("{alias}@"));
            }
            pair = self.nesting.around[pair];
        }
    }

    /// The tables that no argument is tied to.
    fn loose(&self) -> Vec<&str> {
        let mut tied: BTreeSet<&str> = BTreeSet::new();
        let arguments = self.equal.iter().flat_map(|(a, b)| [a, b]);
        tied.extend(arguments.filter(|node| node.starts_with('$')).map(String::as_str));
        loop {
            let before = tied.len();
            for (a, b) in &self.equal {
                if tied.contains(a.as_str()) || tied.contains(b.as_str()) {
                    tied.extend([a.as_str(), b.as_str()]);
                }
            }
            if tied.len() == before {
                break;
            }
        }
        let loose = self.tables.iter().filter(|(_, node)| !tied.contains(node.as_str()));
        loose.map(|(table, _)| table.as_str()).collect()
    }
}

/// The name that a table goes by: what stands behind it, unless that is what comes next in the statement.
fn alias(after: &[Token]) -> &str {
    const NEXT: &[&str] = &[
        "where",
        "set",
        "on",
        "join",
        "left",
        "cross",
        "order",
        "group",
        "for",
        "limit",
        "values",
        "union",
        "returning",
        "select",
    ];
    let name = match after {
        [a, name, ..] if a.word == "as" => &name.word,
        [name, ..] => &name.word,
        [] => return "",
    };
    let is_name = name.starts_with(|sign: char| sign.is_alphabetic());
    if is_name && !NEXT.contains(&name.as_str()) { name } else { "" }
}

/// What is wrong with a statement of a distributed engine's; which of the exemptions it needs.
pub(crate) fn faults(sql: &str) -> (Vec<String>, BTreeSet<&'static str>) {
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    let everywhere = citus::everywhere();
    for statement in statements(sql, 1) {
        let ties = Ties::new(&statement, &everywhere);
        let loose = ties.loose();
        if loose.is_empty() {
            continue;
        }
        let has = |words: &[&str]| {
            (0..statement.len()).any(|at| {
                let rest = &statement[at..];
                rest.len() >= words.len()
                    && words.iter().zip(rest).all(|(word, token)| token.word == *word)
            })
        };
        match ABOUT_ALL.iter().find(|(words, _)| has(words)) {
            None => faults.push(format!("{} of no one merchant", loose.join(", "))),
            Some((_, who)) => {
                used.insert(*who);
                for words in READS_ONLY {
                    if (0..statement.len()).any(|at| stands_at(&statement[at..], words)) {
                        faults.push(format!("{} in what is about all merchants", words.join(" ")));
                    }
                }
            }
        }
    }
    (faults, used)
}

/// A storage of one connection, which keeps every statement.
async fn watched(schema: &Schema) -> PgStorage {
    let options: PgConnectOptions = url("PGW_TEST_POSTGRES").parse().expect("a valid URL");
    let options = options.statement_cache_capacity(10_000);
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    Leg::Distributed.builder(schema).build(pool).await.expect("the schema was just migrated")
}

#[tokio::test]
async fn every_statement_of_a_distributed_engine_is_one_merchants() {
    let schema = schema().await;
    let storage = watched(&schema).await;
    let samples = Samples::new(1).of(scope("shop-1", Mode::Live));
    roles::do_everything(&storage, &samples).await;
    let listed = "select statement from pg_prepared_statements";
    let rows = sqlx::query(listed).fetch_all(storage.pool()).await.expect("a valid query");
    let (mut count, mut found, mut used) = (0, Vec::new(), BTreeSet::new());
    for row in rows {
        let statement: String = row.get(0);
        let statement = statement.replace(&format!("{schema}."), "{schema}.");
        count += usize::from(statement.contains("{schema}."));
        let (faults, exemptions) = faults(&statement);
        found.extend(faults.iter().map(|fault| format!("{fault} in {statement}")));
        used.extend(exemptions);
    }
    assert!(count > 60, "only {count} statements were seen");
    assert!(found.is_empty(), "{}", found.join("\n"));
    let unused: Vec<_> = ABOUT_ALL.iter().filter(|(_, who)| !used.contains(who)).collect();
    assert!(unused.is_empty(), "nothing needs {unused:?}");
}

const TIED: &[&str] = &[
    "select version from {schema}.payments where merchant = $1 and id = $3 for update",
    "select 1 from {schema}.payments p join {schema}.operations o on o.merchant = p.merchant where p.merchant = $1",
    "select * from (select a.at from {schema}.audit a where a.merchant = $1 limit 1000) page limit $2",
    "insert into {schema}.events (merchant, id) values ($1, $2)",
    "insert into {schema}.events (merchant, id) select $2::text, $3::uuid where $1::bigint is not null",
    "insert into {schema}.deliveries (merchant, event) select w.merchant, $3 from {schema}.endpoints w where w.merchant = $1",
    "update {schema}.events t set body = i.body from unnest($2::uuid[]) as i(id, body) where t.merchant = $1 and t.id = i.id",
    "select d.id, (select x.erasure from {schema}.erased_payments x where x.merchant = d.merchant) from {schema}.payments d where d.merchant = $1",
    "select prefix from {schema}.api_keys where prefix = $1",
    "select name from {schema}.leases for update",
];

const LOOSE: &[&str] = &[
    "select version from {schema}.payments where id = $3 for update",
    "select 1 from {schema}.payments p join {schema}.operations o on o.payment = p.id where p.merchant = $1",
    // The name is another table's in there.
    "select 1 from {schema}.payments d where d.merchant = $1 and exists (select 1 from {schema}.deliveries d where d.event = $2)",
    "insert into {schema}.events (merchant, id) select * from unnest($1::text[], $2::uuid[])",
    "update {schema}.events t set body = i.body from unnest($1::text[], $2::uuid[]) as i(merchant, id) where t.merchant = i.merchant",
    "select merchant from {schema}.erased_payments where redacted_at is null group by merchant for update",
    "select merchant from {schema}.payments where merchant > $1",
];

#[test]
fn what_is_tied_to_an_argument_is_told_from_what_is_not() {
    for sql in TIED {
        assert_eq!(faults(sql).0, [""; 0], "{sql}");
    }
    for sql in LOOSE {
        assert_ne!(faults(sql).0, [""; 0], "{sql}");
    }
}
