//! Statements: constants with the schema's name put in, each text made once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Postgres, SqlSafeStr, Type};

use crate::schema::Schema;

/// A constant with the schema's name put in, for a call that takes no arguments or binds its own.
pub(crate) fn filled(schema: &Schema, template: &'static str) -> impl SqlSafeStr + use<> {
    AssertSqlSafe(template.replace("{schema}", schema.as_str()))
}

/// A name as an identifier, whatever it is.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statements of one schema.
pub(crate) struct Sql {
    schema: Schema,
    texts: RwLock<HashMap<&'static str, Arc<str>>>,
    shapes: RwLock<HashMap<u32, Arc<str>>>,
}

impl Sql {
    pub(crate) fn new(schema: Schema) -> Self {
        Self { schema, texts: RwLock::default(), shapes: RwLock::default() }
    }

    pub(crate) const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// A statement from a constant; `{schema}` stands for the schema.
    pub(crate) fn text(&self, template: &'static str) -> Statement {
        let known =
            self.texts.read().unwrap_or_else(PoisonError::into_inner).get(template).cloned();
        Statement(known.unwrap_or_else(|| {
            let text: Arc<str> = self.filled(template).into();
            let mut texts = self.texts.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(texts.entry(template).or_insert(text))
        }))
    }

    /// A statement that `compose` puts together from constants, the same text for the same shape.
    pub(crate) fn shape(&self, shape: u32, compose: impl FnOnce() -> Template) -> Statement {
        let known = self.shapes.read().unwrap_or_else(PoisonError::into_inner).get(&shape).cloned();
        Statement(known.unwrap_or_else(|| {
            let text: Arc<str> = self.filled(&compose().0).into();
            let mut shapes = self.shapes.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(shapes.entry(shape).or_insert(text))
        }))
    }

    fn filled(&self, template: &str) -> String {
        template.replace("{schema}", self.schema.as_str())
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// A statement's text while it is put together: of constants and numbers only, so that nothing from outside can get in.
#[derive(Debug, Default)]
pub(crate) struct Template(String);

impl Template {
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    pub(crate) fn push_number(&mut self, number: usize) -> &mut Self {
        self.0.push_str(&number.to_string());
        self
    }
}

/// A statement that is safe to run: it came out of [`Sql`], so it consists of constants, numbers and a checked schema name.
#[derive(Debug, Clone)]
pub(crate) struct Statement(Arc<str>);

impl Statement {
    /// The query with these arguments.
    pub(crate) fn with(&self, arguments: Bound) -> Query<'static, Postgres, PgArguments> {
        // The one place where a text that is not a constant becomes SQL; see the type's promise.
        sqlx::query_with(AssertSqlSafe(Arc::clone(&self.0)), arguments.0)
    }

    /// How a transaction begins.
    pub(crate) fn begin(text: String) -> Self {
        Self(text.into())
    }

    /// The text for a call that takes no arguments.
    pub(crate) fn raw(&self) -> impl SqlSafeStr + use<> {
        AssertSqlSafe(Arc::clone(&self.0))
    }
}

/// Arguments in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Bound(PgArguments);

impl Bound {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add<'t, T: Encode<'t, Postgres> + Type<Postgres>>(&mut self, value: T) {
        self.0
            .add(value)
            .expect("texts, numbers, ids, bytes and times of bounded length can be encoded");
    }

    pub(crate) fn and<'t, T: Encode<'t, Postgres> + Type<Postgres>>(mut self, value: T) -> Self {
        self.add(value);
        self
    }
}
