//! The work that an invalid key makes: the same whatever is wrong with it, so that the time it takes tells nothing. What is
//! compared is every call of the storage, its name, its outcome and their order; never the time it took.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{ApiKeyText, Role};
use pgw_core::builder::ProcessorSettings;
use pgw_core::env::{Env, SystemEntropy};
use pgw_core::gateway::{Gateway, NewApiKey};
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage;
use pgw_core::testing::clock::SimClock;
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty};
use pgw_core::text::Description;
use pgw_http::Config;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

use crate::harness::{App, Receiver};

/// What can be wrong with a key.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Unknown,
    Revoked,
    Expired,
    Malformed,
    Secret,
    Mode,
}

/// Whether the key opened before it was wrong: then it was remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Opened,
    Untried,
}

/// How many calls one request with such a key makes, and the trace of them all, to which the same ones led before.
async fn work(wrong: Wrong, before: Before) -> (u64, u64) {
    let clock = Arc::new(SimClock::start());
    let env = Env::new(Arc::clone(&clock) as _, Arc::new(SystemEntropy));
    let (storage, faults) = (MemoryStorage::new(), Faults::off());
    let inner: Arc<dyn Storage> = Arc::new(storage.clone());
    let counted: Arc<Faulty<dyn Storage>> =
        Arc::new(Faulty::new(inner, Arc::clone(&faults), Life::new()));
    let sandbox = Sandbox::new(env.clone());
    let gateway = Gateway::builder()
        .with_env(env.clone())
        .with_processor(Mode::Test, Arc::new(sandbox.clone()), ProcessorSettings::default())
        .with_storage(counted)
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .build()
        .unwrap();
    let config = Config::default().with_env(env.clone());
    let app = App::of(gateway, storage, sandbox, Arc::new(Receiver::default()), config).await;
    let host = app.gateway.host();
    let name = Description::parse("x").unwrap();
    let new = NewApiKey { role: Role::Admin, name, expires_in: Some(Duration::from_secs(60)) };
    let (key, good) = host.create_api_key(new.clone()).await.unwrap();
    let (other, _) = host.create_api_key(NewApiKey { expires_in: None, ..new }).await.unwrap();
    if before == Before::Opened {
        let ask = app.get("/payments").with("x-api-key", good.expose());
        assert!(ask.await_reply().await.status.is_success());
    }
    // Uses of keys that open are noted on tasks of their own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let revoked = if matches!(wrong, Wrong::Revoked) { key.id } else { other.id };
    host.revoke_api_key(revoked).await.unwrap();
    if matches!(wrong, Wrong::Expired) {
        clock.jump(61);
    }
    let good = good.expose();
    let presented = match wrong {
        Wrong::Unknown => {
            ApiKeyText::mint(&env, Scope::default().mode).secret().expose().to_owned()
        }
        Wrong::Revoked | Wrong::Expired => good.to_owned(),
        Wrong::Malformed => good[..good.len() - 1].to_owned(),
        Wrong::Secret => format!("{}{}", &good[..good.len() - 43], "A".repeat(43)),
        Wrong::Mode => good.replacen("test", "live", 1),
    };
    let calls = faults.calls();
    let reply = app.get("/payments").with("x-api-key", &presented).await_reply().await;
    reply.problem(403, "Invalid API key");
    // The audit log gets its row on a task of its own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    (faults.calls() - calls, faults.trace_hash())
}

#[tokio::test(start_paused = true)]
async fn whatever_is_wrong_with_a_key_makes_the_same_work() {
    for before in [Before::Untried, Before::Opened] {
        let expected = work(Wrong::Unknown, before).await;
        assert_eq!(expected.0, 2, "one look for the key, and the row of the refusal");
        for wrong in [Wrong::Revoked, Wrong::Expired, Wrong::Malformed, Wrong::Secret, Wrong::Mode]
        {
            assert_eq!(work(wrong, before).await, expected, "{wrong:?} {before:?}");
        }
    }
}
