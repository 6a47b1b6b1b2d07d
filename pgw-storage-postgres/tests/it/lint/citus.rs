//! `sql/citus.sql` names every table once, and Citus can distribute those that it is told to distribute.

use std::collections::BTreeMap;

use pgw_storage_postgres::sqlx::{self, Row as _};
use pgw_storage_postgres::{Migrator, Schema};

use super::{Token, statements};
use crate::fixtures::{connection, schema};

/// What the file calls.
pub(super) const CALLS: [&str; 2] = ["create_reference_table", "create_distributed_table"];

/// Where the rows of a table are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The same on every worker.
    Everywhere,
    /// By this column, together with those of another table.
    By { column: String, with: String },
}

/// What stands in quotes.
fn quoted(call: &[Token]) -> Vec<&str> {
    let mut parts = call.split(|token| token.word == "'");
    // Every second part is between two quotes.
    parts.by_ref().skip(1).step_by(2).map(|part| part.first().map_or("", |it| &*it.word)).collect()
}

/// The calls of a text, in order.
fn places(sql: &str) -> Vec<(String, Place)> {
    let calls = statements(sql, 1);
    let place = |call: &Vec<Token>| {
        let arguments = quoted(call);
        let table = |name: &str| name.strip_prefix("{schema}.").unwrap_or(name).to_owned();
        let place = match (&*call[1].word, &arguments[..]) {
            ("create_reference_table", [_]) => Place::Everywhere,
            ("create_distributed_table", [_, column, with]) => {
                Place::By { column: (*column).to_owned(), with: table(with) }
            }
            _ => panic!("a call that is neither: {call:?}"),
        };
        (table(arguments[0]), place)
    };
    calls.iter().map(place).collect()
}

/// The calls of the text that is shipped.
fn shipped() -> Vec<(String, Place)> {
    let schema: Schema = "the_schema".parse().expect("a valid name");
    places(&Migrator::new(schema).citus().replace("the_schema.", "{schema}."))
}

/// The tables that are the same on every worker; all others are distributed.
pub(super) fn everywhere() -> Vec<String> {
    let places = shipped().into_iter();
    places.filter(|(_, place)| *place == Place::Everywhere).map(|(table, _)| table).collect()
}

#[tokio::test]
async fn every_table_has_its_place_on_citus() {
    let (schema, mut connection) = (schema().await, connection().await);
    let tables = "select relname::text from pg_class where relnamespace = $1::text::regnamespace and relkind = 'r' order by 1";
    let query = sqlx::query(tables).bind(schema.as_str());
    let rows = query.fetch_all(&mut connection).await.expect("a valid query");
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();

    let shipped = shipped();
    let mut named: Vec<String> = shipped.iter().map(|(table, _)| table.clone()).collect();
    named.sort();
    assert_eq!(named, tables, "each table of the migrations once");

    let distributed = shipped.iter().filter(|(_, place)| *place != Place::Everywhere);
    for (n, (table, place)) in distributed.enumerate() {
        // The first one begins the group.
        let with = if n == 0 { "none" } else { "payments" };
        let expected = Place::By { column: "merchant".to_owned(), with: with.to_owned() };
        assert_eq!(*place, expected, "{table}");
        assert_eq!(n == 0, table == "payments", "{table}");
    }
}

/// Citus keeps a key unique within a shard only, so each has to tell the shard.
#[tokio::test]
async fn every_key_of_a_distributed_table_has_the_merchant() {
    let (schema, mut connection) = (schema().await, connection().await);
    let keys = "select t.relname::text, x.relname::text, array_agg(a.attname::text order by a.attnum) from pg_index i
        join pg_class t on t.oid = i.indrelid join pg_class x on x.oid = i.indexrelid
        join pg_attribute a on a.attrelid = i.indexrelid
        where t.relnamespace = $1::text::regnamespace and i.indisunique group by 1, 2";
    let rows = sqlx::query(keys).bind(schema.as_str()).fetch_all(&mut connection).await;
    let everywhere = everywhere();
    let mut of_table: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.expect("a valid query") {
        let (table, key, columns): (String, String, Vec<String>) =
            (row.get(0), row.get(1), row.get(2));
        if !everywhere.contains(&table) {
            assert!(
                columns.iter().any(|column| column == "merchant"),
                "{key} of {table}: {columns:?}"
            );
            *of_table.entry(table).or_default() += 1;
        }
    }
    let distributed = shipped().len() - everywhere.len();
    assert_eq!(of_table.len(), distributed, "each has a key: {of_table:?}");
    let foreign = "select count(*) from pg_constraint where connamespace = $1::text::regnamespace and contype = 'f'";
    let count: i64 = sqlx::query_scalar(foreign)
        .bind(schema.as_str())
        .fetch_one(&mut connection)
        .await
        .expect("a valid query");
    assert_eq!(count, 0, "foreign keys");
}

#[test]
fn calls_are_understood() {
    let sql = "-- why
        select create_reference_table('{schema}.a');
        select create_distributed_table('{schema}.b', 'merchant', colocate_with => 'none');
        select create_distributed_table('{schema}.c', 'merchant', colocate_with => '{schema}.b');";
    let by = |with: &str| Place::By { column: "merchant".to_owned(), with: with.to_owned() };
    let expected = [("a", Place::Everywhere), ("b", by("none")), ("c", by("b"))]
        .map(|(t, p)| (t.to_owned(), p));
    assert_eq!(places(sql), expected);
}
