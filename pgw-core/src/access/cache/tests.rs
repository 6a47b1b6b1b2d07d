//! What the cache promises about keys, over a notifier that says what the test says. The shield is tested over whole gateways, in `tests/it`.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::access::Actor;
use crate::notifier::NotifierError;
use crate::testing::sample::Samples;

/// A notifier whose one subscription hears what the test says, or that cannot be reached.
#[derive(Debug, Default)]
struct Told(Mutex<Option<mpsc::UnboundedReceiver<Hint>>>);

#[derive(Debug)]
struct Hears(mpsc::UnboundedReceiver<Hint>);

#[async_trait]
impl Notifier for Told {
    async fn publish(&self, _hints: &[Hint]) -> Result<(), NotifierError> {
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        match self.0.lock().unwrap().take() {
            Some(hints) => Ok(Box::new(Hears(hints))),
            None => Err(NotifierError::Unavailable(Arc::new(std::io::Error::other("away")))),
        }
    }
}

#[async_trait]
impl Subscription for Hears {
    async fn next(&mut self) -> Hint {
        match self.0.recv().await {
            Some(hint) => hint,
            None => std::future::pending().await,
        }
    }
}

struct Bench {
    cache: AccessCache,
    say: mpsc::UnboundedSender<Hint>,
    notifier: Told,
    key: ApiKey,
    principal: Principal,
    now: Timestamp,
}

impl Bench {
    async fn listening() -> Self {
        let bench = Self::new();
        bench.cache.listen(&bench.notifier).await;
        bench
    }

    fn new() -> Self {
        let (say, hears) = mpsc::unbounded_channel();
        let samples = Samples::new(1);
        let key = samples.api_key();
        let (scope, actor, role) = (key.scope.clone(), Actor::Key(key.id), key.role);
        Self {
            cache: AccessCache::new(Duration::from_secs(600)),
            say,
            notifier: Told(Mutex::new(Some(hears))),
            principal: Principal { scope, actor, role },
            key,
            now: samples.now(),
        }
    }

    fn open(&self) -> Result<Opened, Before> {
        self.cache.open(self.key.prefix, &self.key.digest, self.now)
    }

    fn keep(&self, before: Before) {
        self.cache.keep(&self.key, &self.principal, before, self.now);
    }

    /// Misses, and takes the key in.
    fn fill(&self) {
        self.keep(self.open().expect_err("it is not known yet"));
        assert_eq!(self.open().expect("it is known").principal, self.principal);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_for_half_a_minute_at_most() {
    let bench = Bench::listening().await;
    bench.fill();
    tokio::time::advance(KEYS_KEPT_MAX - Duration::from_millis(1)).await;
    assert!(bench.open().is_ok());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(bench.open().is_err());
}

#[tokio::test(start_paused = true)]
async fn only_its_own_digest_opens_and_only_until_the_key_ends() {
    let mut bench = Bench::listening().await;
    bench.key.expires_at = Some(bench.now.plus(Duration::from_secs(1)));
    bench.fill();
    let other = [7; 32];
    assert!(bench.cache.open(bench.key.prefix, &other, bench.now).is_err());
    bench.now = bench.now.plus(Duration::from_secs(1));
    assert!(bench.open().is_err(), "the clock says that it ended");
}

#[tokio::test(start_paused = true)]
async fn a_hint_ends_what_is_known_at_the_next_use() {
    let bench = Bench::listening().await;
    let other = Samples::new(2).api_key().prefix;
    for (hint, ends) in [
        (Hint::KeyRevoked(other), false),
        (Hint::Events, false),
        (Hint::KeyRevoked(bench.key.prefix), true),
        (Hint::Missed, true),
    ] {
        if bench.open().is_err() {
            bench.fill();
        }
        bench.say.send(hint.clone()).unwrap();
        assert_eq!(bench.open().is_err(), ends, "{hint:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_hints_than_a_tasks_budget_are_all_heard() {
    let bench = Bench::listening().await;
    bench.fill();
    for _ in 0..10_000 {
        bench.say.send(Hint::Events).unwrap();
    }
    bench.say.send(Hint::KeyRevoked(bench.key.prefix)).unwrap();
    assert!(bench.open().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_revocation_is_not_kept_after_it() {
    let bench = Bench::listening().await;
    for hint in [Hint::KeyRevoked(bench.key.prefix), Hint::Missed] {
        let before = bench.open().expect_err("it is not known");
        // The storage answered; then it was revoked; then the hint came and was taken in by somebody else.
        bench.say.send(hint).unwrap();
        assert!(bench.open().is_err());
        bench.keep(before);
        assert!(bench.open().is_err(), "a revoked key lives on");
    }
    let before = bench.open().expect_err("it is not known");
    bench.cache.forget_key(bench.key.prefix);
    bench.keep(before);
    assert!(bench.open().is_err(), "a key that this process revoked lives on");
}

#[tokio::test(start_paused = true)]
async fn without_hints_keys_are_kept_for_their_time_and_listening_is_tried_again() {
    let bench = Bench::new();
    let hears = bench.notifier.0.lock().unwrap().take();
    bench.cache.listen(&bench.notifier).await;
    bench.fill();
    *bench.notifier.0.lock().unwrap() = hears;
    bench.cache.listen(&bench.notifier).await;
    assert!(bench.open().is_ok(), "it is not tried at every use");
    tokio::time::advance(KEYS_KEPT_MAX).await;
    bench.cache.listen(&bench.notifier).await;
    bench.fill();
    bench.say.send(Hint::KeyRevoked(bench.key.prefix)).unwrap();
    assert!(bench.open().is_err());
}

/// A notifier that never answers the first time, as one whose caller is dropped.
#[derive(Debug)]
struct Slow(Told, std::sync::atomic::AtomicBool);

#[async_trait]
impl Notifier for Slow {
    async fn publish(&self, _hints: &[Hint]) -> Result<(), NotifierError> {
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        if !self.1.swap(true, std::sync::atomic::Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.0.subscribe().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_to_listen_that_is_dropped_leaves_it_to_the_next() {
    let Bench { cache, say, notifier, key, principal, now } = Bench::new();
    let slow = Slow(notifier, false.into());
    let dropped = tokio::time::timeout(Duration::from_millis(1), cache.listen(&slow)).await;
    assert!(dropped.is_err());
    cache.listen(&slow).await;
    let bench = Bench { cache, say, notifier: slow.0, key, principal, now };
    bench.fill();
    bench.say.send(Hint::KeyRevoked(bench.key.prefix)).unwrap();
    assert!(bench.open().is_err(), "it is heard");
}

fn shield(version: u64) -> Shield {
    Shield { version, ..Shield::default() }
}

#[tokio::test(start_paused = true)]
async fn the_storage_is_right_about_the_shield_unless_it_was_changed_meanwhile() {
    let Bench { cache, .. } = Bench::new();
    let before = Before(cache.heard().epoch);
    assert_eq!(cache.learn(shield(7), before).shield.version, 7);
    // The database was restored to an earlier time.
    assert_eq!(cache.learn(shield(3), before).shield.version, 3);
    // This process committed while somebody read.
    cache.changed_shield(shield(4));
    assert_eq!(cache.learn(shield(3), before).shield.version, 4);
    assert!(cache.held().is_err(), "it is read again");
    // Two commits are heard of in the other order.
    cache.changed_shield(shield(6));
    cache.changed_shield(shield(5));
    assert_eq!(cache.held().unwrap_err().unwrap().shield.version, 6);
    let before = Before(cache.heard().epoch);
    assert_eq!(cache.learn(shield(6), before).shield.version, 6);
    assert_eq!(cache.held().unwrap().shield.version, 6);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_listening_is_read_again() {
    let bench = Bench::new();
    bench.fill();
    bench.cache.listen(&bench.notifier).await;
    assert!(bench.open().is_err());
}

#[tokio::test(start_paused = true)]
async fn the_use_of_a_key_is_worth_noting_once_a_minute() {
    let mut bench = Bench::listening().await;
    let before = bench.open().expect_err("it is not known");
    assert!(bench.cache.keep(&bench.key, &bench.principal, before, bench.now));
    assert!(!bench.open().unwrap().is_worth_noting);
    tokio::time::advance(KEYS_KEPT_MAX).await;
    bench.now = bench.now.plus(Duration::from_secs(59));
    // Read again, before the note of it came through.
    let before = bench.open().expect_err("its time is over");
    assert!(!bench.cache.keep(&bench.key, &bench.principal, before, bench.now));
    bench.now = bench.now.plus(Duration::from_secs(1));
    assert!(bench.open().unwrap().is_worth_noting);
    assert!(!bench.open().unwrap().is_worth_noting);
}

#[test]
fn the_oldest_make_room() {
    let mut keys = Keys::new(Duration::from_secs(30), 3);
    let samples = Samples::new(3);
    let all: Vec<ApiKey> = (0..5).map(|_| samples.api_key()).collect();
    let principal =
        Principal { scope: samples.scope().clone(), actor: Actor::Host, role: all[0].role };
    let start = runtime_now();
    // The first one is taken in again: its first place must not take its second.
    for (n, key) in [0, 1, 0, 2, 3].into_iter().map(|n| &all[n]).enumerate() {
        let at = start + Duration::from_secs(n as u64);
        keys.insert(key, principal.clone(), None, at);
        assert!(keys.entries.len() <= 3 && keys.order.len() <= 3);
    }
    let is_there = |key: &ApiKey| keys.entries.contains_key(&key.prefix);
    assert_eq!(all.iter().map(is_there).collect::<Vec<_>>(), [true, false, true, true, false]);
}
