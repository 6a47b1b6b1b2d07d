//! Indexes that hold row numbers only: of ids, of idempotency keys, of places in a list. The keys stay in the rows.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use pgw_core::page::Cursor;
use uuid::Uuid;

/// Finds rows by scope and id: about ten bytes a row.
#[derive(Debug, Default)]
pub(crate) struct IdIndex(HashTable<u32>);

impl IdIndex {
    pub(crate) fn find(
        &self,
        scope: u32,
        id: Uuid,
        key_of: impl Fn(u32) -> (u32, Uuid),
    ) -> Option<u32> {
        self.0.find(mix(scope, id), |row| key_of(*row) == (scope, id)).copied()
    }

    /// Adds a row that is not there.
    pub(crate) fn insert(&mut self, row: u32, key_of: impl Fn(u32) -> (u32, Uuid)) {
        let hash = |row: &u32| {
            let (scope, id) = key_of(*row);
            mix(scope, id)
        };
        self.0.insert_unique(hash(&row), row, hash);
    }
}

/// Finds rows by scope and a text that a caller chose, so its hashes are keyed (SipHash): nobody can choose texts that collide.
#[derive(Debug, Default)]
pub(crate) struct TextIndex {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl TextIndex {
    pub(crate) fn find<'a>(
        &self,
        scope: u32,
        text: &str,
        key_of: impl Fn(u32) -> (u32, &'a str),
    ) -> Option<u32> {
        let hash = self.hasher.hash_one((scope, text));
        self.table.find(hash, |row| key_of(*row) == (scope, text)).copied()
    }

    /// Adds a row that is not there.
    pub(crate) fn insert<'a>(&mut self, row: u32, key_of: impl Fn(u32) -> (u32, &'a str)) {
        let hasher = &self.hasher;
        let hash = |row: &u32| hasher.hash_one(key_of(*row));
        self.table.insert_unique(hash(&row), row, hash);
    }
}

/// Rows in the order of their places: four bytes a row.
///
/// Rows come nearly in order, so adding one is cheap; one that is out of order moves those after it.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Vec<u32>);

impl Timeline {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn row(&self, at: usize) -> u32 {
        self.0[at]
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    pub(crate) fn insert(&mut self, row: u32, place_of: impl Fn(u32) -> Cursor) {
        let place = place_of(row);
        match self.0.last() {
            Some(last) if place_of(*last) > place => {
                let at = self.count_while(|other| place_of(other) <= place);
                self.0.insert(at, row);
            }
            _ => self.0.push(row),
        }
    }

    /// Takes a row out of the place that it was added at.
    pub(crate) fn remove(&mut self, row: u32, place: Cursor, place_of: impl Fn(u32) -> Cursor) {
        let at = self.count_while(|other| place_of(other) < place);
        if self.0.get(at) == Some(&row) {
            self.0.remove(at);
        }
    }

    /// How many rows there are before the first one that `before` is not true of.
    pub(crate) fn count_while(&self, before: impl Fn(u32) -> bool) -> usize {
        self.0.partition_point(|row| before(*row))
    }
}

/// Ids are minted by us and random in most of their bits, so spreading them is all a hash has to do.
fn mix(scope: u32, id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    let folded = low ^ high.rotate_left(32) ^ u64::from(scope).rotate_left(48);
    let spread = folded.wrapping_mul(SPREAD);
    spread ^ (spread >> 32)
}

/// 2^64 divided by the golden ratio (Knuth, TAOCP vol. 3, §6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use pgw_core::timestamp::Timestamp;

    use super::*;

    #[test]
    fn ids_are_found_in_their_own_scope() {
        let keys: Vec<(u32, Uuid)> =
            (0..1_000).map(|n| (n % 3, Uuid::from_u128(u128::from(n / 3)))).collect();
        let key_of = |row: u32| keys[row as usize];
        let mut index = IdIndex::default();
        for row in 0..1_000 {
            let (scope, id) = key_of(row);
            assert_eq!(index.find(scope, id, key_of), None);
            index.insert(row, key_of);
        }
        for row in 0..1_000 {
            let (scope, id) = key_of(row);
            assert_eq!(index.find(scope, id, key_of), Some(row));
        }
        assert_eq!(index.find(7, Uuid::nil(), key_of), None);
    }

    #[test]
    fn a_timeline_is_in_order_whatever_order_its_rows_come_in() {
        let places =
            [5, 1, 4, 9, 9, 2, 7, 0].map(|at| Cursor::new(Timestamp::from_micros(at), Uuid::nil()));
        let place_of = |row: u32| places[row as usize];
        let mut timeline = Timeline::default();
        for row in 0..8 {
            timeline.insert(row, place_of);
        }
        assert_eq!(timeline.rows().collect::<Vec<u32>>(), [7, 1, 5, 2, 0, 6, 3, 4]);
        timeline.remove(0, places[0], place_of);
        timeline.remove(0, places[0], place_of);
        assert_eq!(timeline.rows().collect::<Vec<u32>>(), [7, 1, 5, 2, 6, 3, 4]);
    }
}
