//! Reads of one payment by several callers at once, as one statement: under load a round trip serves many, and when idle nobody waits for
//! company.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgw_core::id::PaymentId;
use pgw_core::payment::PaymentState;
use pgw_core::scope::Scope;
use tokio::sync::oneshot;

use crate::builder::Engine;
use crate::columns::*;
use crate::database::{Database, Session as _};
use crate::due::item;
use crate::read::{self, Found, state};
use crate::rows::is_live;
use crate::sql::{Bound, Template};

/// Those who wait for a payment. Each reads what is committed when its statement begins, which is after it has asked.
#[derive(Debug, Default)]
pub(crate) struct Together(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    readers: usize,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    scope: Scope,
    id: PaymentId,
    /// Dropped when the statement failed: whoever asked then reads alone, and learns why.
    answer: oneshot::Sender<Found<Option<PaymentState>>>,
}

impl Together {
    /// A payment with its operations.
    pub(crate) async fn payment(
        self: &Arc<Self>,
        database: &Arc<Database>,
        scope: &Scope,
        id: PaymentId,
    ) -> Found<Option<PaymentState>> {
        if database.engine() == Engine::Distributed {
            return read::payment(database, scope, id).await;
        }
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut waiting = self.lock();
            waiting.asked.push(Asked { scope: scope.clone(), id, answer });
            let begins = waiting.readers < READERS_MAX;
            waiting.readers += usize::from(begins);
            begins
        };
        if begins {
            let (together, database) = (Arc::clone(self), Arc::clone(database));
            let reader = Reader { together, database, is_over: false };
            tokio::spawn(reader.run());
        }
        match answered.await {
            Ok(found) => found,
            Err(_) => read::payment(database, scope, id).await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until nobody waits. If its runtime ends first, the next one that asks begins anew.
struct Reader {
    together: Arc<Together>,
    database: Arc<Database>,
    is_over: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.is_over {
            let mut waiting = self.together.lock();
            waiting.readers -= 1;
            // They read alone.
            waiting.asked.clear();
        }
    }
}

impl Reader {
    async fn run(mut self) {
        loop {
            let asked = {
                let mut waiting = self.together.lock();
                // Those who have waited longest are at the front.
                let most = waiting.asked.len().min(READ_MAX);
                let rest = waiting.asked.split_off(most);
                let taken = std::mem::replace(&mut waiting.asked, rest);
                if taken.is_empty() {
                    waiting.readers -= 1;
                    self.is_over = true;
                    return;
                }
                taken
            };
            self.read(asked).await;
        }
    }

    async fn read(&self, asked: Vec<Asked>) {
        let found = async {
            match &asked[..] {
                [Asked { scope, id, .. }] => {
                    Ok(vec![read::payment(&self.database, scope, *id).await])
                }
                asked => self.found(asked).await,
            }
        };
        // A server that is gone without a word must not take all readers with it; on another connection each learns for itself.
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(Ok(found)) => tell(asked, found),
            Ok(Err(error)) => {
                tracing::debug!(%error, "payments could not be read together; each is read alone");
            }
            Err(_) => tracing::debug!("payments were not read in time; each is read alone"),
        }
    }

    async fn found(&self, asked: &[Asked]) -> Found<Vec<Found<Option<PaymentState>>>> {
        let statement = self.database.sql.shape(ALL_PAYMENTS, compose);
        let rows = self.database.rows(statement, bind(asked)).await?;
        let mut found: Vec<Found<Option<PaymentState>>> = Vec::new();
        found.resize_with(asked.len(), || Ok(None));
        // The rows of a payment lie together.
        for rows in rows.chunk_by(|a, b| item(a).ok() == item(b).ok()) {
            let place = rows.first().map(item).transpose()?.unwrap_or_default();
            if let Some((asked, slot)) = asked.get(place).zip(found.get_mut(place)) {
                *slot = state(rows, &asked.scope);
            }
        }
        Ok(found)
    }
}

/// Gives each its answer. Who is gone by now needs none.
fn tell(asked: Vec<Asked>, found: impl IntoIterator<Item = Found<Option<PaymentState>>>) {
    for (asked, found) in asked.into_iter().zip(found) {
        let _ = asked.answer.send(found);
    }
}

fn compose() -> Template {
    let mut sql = Template::default();
    sql.push(concat!(
        "select ", payment_columns!(), ", ", operation_columns!(), ", i.item ",
        "from unnest($1::int[], $2::text[], $3::boolean[], $4::uuid[]) as i(item, merchant, live, id) ",
        // Each by its key: as plain joins, on tables that were never analysed, all of the merchant's are read for each.
        "cross join lateral (select * from {schema}.payments y where y.merchant = i.merchant and y.live = i.live and y.id = i.id limit 1) p ",
        "left join lateral (select * from {schema}.operations z where z.merchant = i.merchant and z.live = i.live and z.payment = i.id ",
        "offset 0) o on true order by i.item, o.place, o.id"
    ));
    sql
}

fn bind(asked: &[Asked]) -> Bound {
    let places: Vec<i32> = (0..).zip(asked).map(|(place, _)| place).collect();
    Bound::new()
        .and(places)
        .and(asked.iter().map(|one| one.scope.merchant.to_string()).collect::<Vec<_>>())
        .and(asked.iter().map(|one| is_live(one.scope.mode)).collect::<Vec<_>>())
        .and(asked.iter().map(|one| one.id.as_uuid()).collect::<Vec<_>>())
}

/// Statements under way at once: more make each smaller, and one alone would wait for the server while there is work here.
const READERS_MAX: usize = 2;
/// Most payments of one statement, with all of their operations.
const READ_MAX: usize = 64;
/// How long a statement is waited for: many times longer than one takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// See `Sql::shape`.
const ALL_PAYMENTS: u32 = 0x4000_0008;
