//! The one lock of each backend. Its type is named here and nowhere else, so that the interleaving test can put a model
//! checker's lock in its place.

pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks.
///
/// # Panics
/// When a thread panicked while it held the lock: what the lock protects may be half-written, and a truth that may
/// be half-written is worse than none.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}
