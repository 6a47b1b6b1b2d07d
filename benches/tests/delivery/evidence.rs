//! What is there at the end, at the receivers and in the database, and what must be true of it.

use std::collections::{BTreeMap, HashMap};

use pgw_core::event::Event;
use pgw_core::id::{EventId, PaymentId};
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::webhook::Ordering;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::query_as;

use crate::sink::{Arrival, Outcome};
use crate::stage::{HEALTHY, Stage};

#[derive(Debug)]
pub(crate) struct Evidence {
    events: Vec<Event>,
    arrivals: Vec<Arrival>,
    /// What an endpoint heard of an event.
    heard: HashMap<(usize, EventId), Heard>,
}

/// Places in the order of arrivals.
#[derive(Debug, Clone, Copy)]
struct Heard {
    first: usize,
    last: usize,
    /// The first that was taken and answered so.
    taken: Option<usize>,
}

impl Evidence {
    pub(crate) async fn gather(stage: &Stage) -> Self {
        let arrivals = stage.sink.arrivals();
        let mut heard = HashMap::new();
        for (place, arrival) in arrivals.iter().enumerate() {
            let new = Heard { first: place, last: place, taken: None };
            let heard = heard.entry((arrival.endpoint, arrival.event)).or_insert(new);
            heard.last = place;
            if arrival.outcome == Outcome::Taken {
                heard.taken.get_or_insert(place);
            }
        }
        Self { events: events(&stage.pg).await, arrivals, heard }
    }

    pub(crate) fn webhooks(&self) -> usize {
        self.arrivals.len()
    }

    pub(crate) fn came_to(&self, outcome: Outcome) -> usize {
        self.arrivals.iter().filter(|arrival| arrival.outcome == outcome).count()
    }

    /// Every event that an endpoint is subscribed to arrived there and was taken, whichever time, under its own id and byte for byte as it
    /// is stored; nothing else arrived; and the database says the same.
    pub(crate) async fn assert_all_arrived(&self, stage: &Stage, events: usize, owed: usize) {
        assert_eq!(self.events.len(), events, "events");
        let mut subscribed = 0;
        for event in &self.events {
            assert!(stage.sink.has(event.id, &event.body), "{event:?} came with other bytes");
            for (number, endpoint) in stage.endpoints.iter().enumerate() {
                if endpoint.hears(event.event_type) {
                    let heard = self.heard.get(&(number, event.id));
                    let is_taken = heard.is_some_and(|heard| heard.taken.is_some());
                    assert!(is_taken, "at endpoint {number}, {event:?}: {heard:?}");
                    subscribed += 1;
                }
            }
        }
        assert_eq!(subscribed, owed, "events at subscribed endpoints");
        assert_eq!(self.heard.len(), owed, "nothing arrived that nobody is subscribed to");
        assert_eq!(stage.sink.broken(), [""; 0], "signatures, and bytes that came again");
        let count = async |sql| usize::try_from(stage.count(sql).await).expect("64 bits");
        assert_eq!(count("select count(*) from pgw.deliveries").await, owed);
        assert_eq!(count(DELIVERED).await, owed, "all are delivered, and no claim is left");
    }

    /// At endpoints with an order a payment's next event never arrives, whatever becomes of it there, before the one before it was taken and
    /// answered so: it is sent only after that answer was committed. No kill and no lease that runs out can change this, so it holds without
    /// exception.
    ///
    /// What they can do is to leave a repetition: a request that its worker sent before it was killed, or whose lease ran out meanwhile, may
    /// be read by the receiver after another worker has sent the same event, heard that it was taken, and sent the next one. A killed worker
    /// leaves one for each delivery that it had under way at most. How many there were is the answer.
    pub(crate) fn assert_in_order(&self, stage: &Stage) -> usize {
        let mut payments: BTreeMap<PaymentId, Vec<&Event>> = BTreeMap::new();
        for event in &self.events {
            payments.entry(event.payment.expect("all are about one")).or_default().push(event);
        }
        let mut stale = 0;
        for (number, endpoint) in stage.endpoints.iter().enumerate() {
            if endpoint.options.ordering == Ordering::AsDue {
                continue;
            }
            for events in payments.values_mut() {
                events.sort_by_key(|event| event.sequence);
                for pair in events.windows(2) {
                    let [before, after] = [pair[0], pair[1]].map(|e| self.heard[&(number, e.id)]);
                    let in_order = before.taken.is_some_and(|taken| taken < after.first);
                    let order = endpoint.options.ordering;
                    assert!(in_order, "{order:?}: {before:?} of {:?}, {after:?}", pair[0]);
                    stale += usize::from(before.last > after.first);
                }
            }
        }
        stale
    }

    /// The log of attempts tells of each delivery each attempt that its row counts, and one that was taken; and no answer that was not given.
    /// How many answers were given and are not in it is the answer: a worker that is killed, or whose lease has run out, cannot log.
    pub(crate) async fn assert_logged(&self, stage: &Stage) -> usize {
        assert_eq!(stage.count(MISCOUNTED).await, 0, "deliveries with other attempts than logged");
        assert_eq!(stage.count(NOT_TAKEN_ONCE).await, 0, "deliveries not taken once by the log");
        let mut answered: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for arrival in &self.arrivals {
            let url = &stage.endpoints[arrival.endpoint].url;
            if let Some(status) = arrival.outcome.status() {
                *answered.entry((url.as_str().to_owned(), status.into())).or_default() += 1;
            }
        }
        let logged: Vec<(String, i32, i64)> =
            query_as(LOGGED).fetch_all(stage.pg.pool()).await.expect(HEALTHY);
        for (url, status, logged) in logged {
            let left = answered.entry((url, status)).or_default();
            *left -= logged;
            assert!(*left >= 0, "{status} is logged {} times too often", -*left);
        }
        usize::try_from(answered.values().sum::<i64>()).expect("none is negative")
    }
}

/// All of them, after those that no worker got to were given their place too.
async fn events(pg: &PgStorage) -> Vec<Event> {
    while pg.stamp_events(500).await.expect(HEALTHY) > 0 {}
    let mut events: Vec<Event> = Vec::new();
    loop {
        let after = events.last().and_then(|event| event.feed_position).unwrap_or(0);
        let more = pg.feed(&Scope::default(), after, 500).await.expect(HEALTHY);
        if more.is_empty() {
            return events;
        }
        events.extend(more);
    }
}

const DELIVERED: &str = "select count(*) from pgw.deliveries \
    where state = 'delivered' and due_at is null and claimed_until is null and buried is null";
const MISCOUNTED: &str = "select count(*) from pgw.deliveries d where d.attempts_total <> \
    (select count(*) from pgw.attempts a where (a.merchant, a.live, a.event, a.endpoint) = (d.merchant, d.live, d.event, d.endpoint))";
const NOT_TAKEN_ONCE: &str = "select count(*) from pgw.deliveries d where 1 <> \
    (select count(*) from pgw.attempts a where (a.merchant, a.live, a.event, a.endpoint) = (d.merchant, d.live, d.event, d.endpoint) \
     and a.status = 200)";
const LOGGED: &str = "select w.url, a.status, count(*) from pgw.attempts a join pgw.endpoints w on w.id = a.endpoint \
    where a.status is not null group by w.url, a.status";
