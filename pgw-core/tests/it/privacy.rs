//! Erasing a customer: what nobody can read from the mark on, what goes on all the same, and that it ends whatever happens meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{AuditAction, AuditObject, Caller, Pepper};
use pgw_core::env::Env;
use pgw_core::error::Error;
use pgw_core::gateway::{ExportFormat, Gateway, Origin, Reapplied};
use pgw_core::id::PaymentId;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::page::PageRequest;
use pgw_core::payment::plan::NewRefund;
use pgw_core::payment::{PaymentState, PaymentStatus};
use pgw_core::privacy::{Erasure, ErasureState, NewConsent, Redaction};
use pgw_core::scope::Scope;
use pgw_core::storage::PaymentFilter;
use pgw_core::testing::faults::Rates;
use pgw_core::testing::keys::secret_of;
use pgw_core::testing::person::{Person, everything_read};
use pgw_core::testing::transport::Reply;
use pgw_core::text::{ConsentSource, CustomerId, Purpose, Reason, TermsVersion};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_webhook_client::StandardVerifier;

use crate::world::{DAY, World, pass};

/// What is captured and given back in all, by currency.
async fn sums(world: &World) -> BTreeMap<&'static str, (i64, i64)> {
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let all = world.verbs().payments(&PaymentFilter::default(), page).await.unwrap();
    let mut sums: BTreeMap<_, (i64, i64)> = BTreeMap::new();
    for payment in all.data {
        let sum = sums.entry(payment.amount.currency().code()).or_default();
        *sum = (sum.0 + payment.captured_minor, sum.1 + payment.refunded_minor);
    }
    sums
}

/// A world where two people paid and receivers echo what they hear; no worker runs any more.
async fn lived_in() -> (World, Person, Person) {
    let world = World::answering(|_| Reply::Echo(500));
    world.endpoint().await;
    let (gone, stays) = (Person::new("mk7gone"), Person::new("mk7stays"));
    let worker = world.worker();
    gone.live(&world.gateway).await.unwrap();
    stays.live(&world.gateway).await.unwrap();
    pass(Duration::from_secs(30)).await;
    worker.shutdown().await;
    let read = everything_read(&world.gateway).await.unwrap();
    assert_eq!((gone.missing_in(&read), stays.missing_in(&read)), (vec![], vec![]));
    (world, gone, stays)
}

#[tokio::test(start_paused = true)]
async fn from_the_mark_on_nobody_reads_anything_personal_and_then_it_is_gone() {
    let (world, gone, stays) = lived_in().await;
    let (verbs, money) = (world.verbs(), sums(&world).await);
    let marked = verbs.erase_customer(&gone.id()).await.unwrap();
    assert_eq!((marked.state(), marked.payments), (ErasureState::Marked, 3));
    let read = everything_read(&world.gateway).await.unwrap();
    assert!(!gone.is_in(&read));
    assert_eq!(stays.missing_in(&read), [""; 0]);

    // A replay gives the redacted answer of the first time, and an hour of webhooks says nothing of the person either.
    let replay = verbs.create_payment(gone.payment("charge", "tok_visa")).await.unwrap();
    let answer = replay.answer.unwrap();
    assert_eq!((replay.origin, answer.status), (Origin::Replayed, 201));
    assert!(!gone.is_in(&answer.body) && answer.body.starts_with(b"{\"object\":\"payment\""));
    let heard = world.transport.received().len();
    let worker = world.worker();
    pass(Duration::from_secs(60 * 60)).await;
    worker.shutdown().await;
    let endpoints = verbs.endpoints(PageRequest::default()).await.unwrap().data;
    let secret = secret_of(&endpoints[0]).unwrap();
    let verifier = StandardVerifier::new(secret.expose()).unwrap();
    let later = &world.transport.received()[heard..];
    assert!(later.iter().any(|one| String::from_utf8_lossy(&one.body).contains(Redaction::EMAIL)));
    for one in later {
        assert!(!gone.is_in(&one.body));
        one.verify(&verifier).unwrap();
    }

    let done = verbs.erasure(marked.erasure.id).await.unwrap().unwrap();
    assert_eq!((done.state(), done.payments_redacted), (ErasureState::Done, 3));
    let read = everything_read(&world.gateway).await.unwrap();
    assert!(!gone.is_in(&read) && !gone.is_in(world.storage.dump().as_bytes()));
    assert_eq!(stays.missing_in(&read), [""; 0]);
    assert_eq!(sums(&world).await, money);
}

#[tokio::test(start_paused = true)]
async fn erasing_again_changes_nothing_and_a_newcomer_is_somebody_else() {
    let (world, gone, _) = lived_in().await;
    let verbs = world.verbs();
    let unknown = CustomerId::parse("nobody").unwrap();
    assert!(matches!(verbs.erase_customer(&unknown).await, Err(Error::NotFound("customer"))));
    let first = verbs.erase_customer(&gone.id()).await.unwrap();
    let before = world.storage.dump();
    assert_eq!(verbs.erase_customer(&gone.id()).await.unwrap(), first);
    let pseudonym = CustomerId::of_erasure(first.erasure.id).unwrap();
    assert_eq!(verbs.erase_customer(&pseudonym).await.unwrap(), first);
    assert!(world.storage.dump() == before, "a no-op");

    let worker = world.worker();
    let back = verbs.create_payment(gone.payment("comeback", "tok_visa")).await.unwrap();
    let id = back.payment().id;
    world.settled(id, None).await;
    assert_eq!(world.state(id).await.payment.customer.id, Some(gone.id()));
    let filter = PaymentFilter { customer: Some(gone.id()), ..PaymentFilter::default() };
    let found = verbs.payments(&filter, PageRequest::default()).await.unwrap().data;
    assert_eq!(found.iter().map(|payment| payment.id).collect::<Vec<_>>(), [id]);
    let second = verbs.erase_customer(&gone.id()).await.unwrap();
    assert_eq!((second.erasure.number, second.payments), (2, 1));
    let all = verbs.erasures(Some(&gone.id()), PageRequest::default()).await.unwrap();
    assert_eq!(all.data.len(), 2);
    worker.shutdown().await;
}

/// A whole export.
async fn exported(world: &World, person: &Person, format: ExportFormat) -> Vec<u8> {
    let caller = Caller::host(Scope::default());
    let begun = world.gateway.export_customer(caller, person.id(), format).await;
    let (mut export, mut file) = (begun.unwrap(), Vec::new());
    while let Some(chunk) = export.next().await.unwrap() {
        file.extend(chunk);
    }
    file
}

#[tokio::test(start_paused = true)]
async fn an_export_holds_everything_and_nothing_of_others() {
    let (world, one, other) = lived_in().await;
    let consent = NewConsent {
        purpose: Purpose::parse("newsletter").unwrap(),
        terms: TermsVersion::parse("2026-11").unwrap(),
        source: Some(ConsentSource::parse("mk7gone-form").unwrap()),
        given_at: None,
    };
    world.verbs().give_consent(&one.id(), consent).await.unwrap();
    let json = exported(&world, &one, ExportFormat::Json).await;
    assert_eq!(one.missing_in(&json), [""; 0]);
    assert!(!other.is_in(&json));
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["customer_id"], one.id().as_str());
    let payments = json["payments"].as_array().unwrap();
    assert_eq!(payments.len(), 3);
    for payment in payments {
        let id: PaymentId = payment["payment"]["id"].as_str().unwrap().parse().unwrap();
        let events = world.verbs().payment_events(id, 0, 100).await.unwrap();
        assert_eq!(payment["events"].as_array().unwrap().len(), events.len());
        let operations = payment["operations"].as_array().unwrap().len();
        let refunds = payment["refunds"].as_array().unwrap().len();
        assert_eq!(operations + refunds, world.state(id).await.operations.len());
    }
    assert_eq!(json["consents"][0]["source"], "mk7gone-form");

    let csv = String::from_utf8(exported(&world, &one, ExportFormat::Csv).await).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert!(csv.ends_with("\r\n") && lines[0].starts_with("id,created_at,status,amount,currency"));
    assert_eq!(lines.len(), 4);
    for line in &lines[1..] {
        assert!(line.starts_with("pay_") && line.contains("mk7gone-mail@example.com"));
    }
    let rows = world
        .gateway
        .storage()
        .audit(&Scope::default().merchant, &Default::default(), Default::default())
        .await;
    let audited = rows.unwrap().data.into_iter().filter(|row| {
        let of_customer = AuditObject::Customer(world.verbs().customer_digest(&one.id()));
        row.action == AuditAction::CustomerExport && row.object == of_customer
    });
    assert_eq!(audited.count(), 2);

    world.verbs().erase_customer(&one.id()).await.unwrap();
    let caller = Caller::host(Scope::default());
    let none = world.gateway.export_customer(caller, one.id(), ExportFormat::Json).await;
    assert!(matches!(none, Err(Error::NotFound("customer"))));
}

#[tokio::test(start_paused = true)]
async fn an_export_writes_nothing_of_who_is_erased_meanwhile() {
    for format in [ExportFormat::Json, ExportFormat::Csv] {
        let (world, gone, _) = lived_in().await;
        let caller = Caller::host(Scope::default());
        let begun = world.gateway.export_customer(caller, gone.id(), format).await;
        let mut export = begun.unwrap();
        export.next().await.unwrap().expect("its head");
        let first = export.next().await.unwrap().expect("the first payment of a page of three");
        assert!(gone.is_in(&first));
        world.verbs().erase_customer(&gone.id()).await.unwrap();
        while let Some(chunk) = export.next().await.unwrap() {
            assert!(!gone.is_in(&chunk), "{format:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn consents_are_a_history_that_an_erasure_takes_over() {
    let world = World::new();
    let (verbs, person) = (world.verbs(), Person::new("mk7gone"));
    let consent = |purpose: &str, terms: &str| NewConsent {
        purpose: Purpose::parse(purpose).unwrap(),
        terms: TermsVersion::parse(terms).unwrap(),
        source: Some(ConsentSource::parse("mk7gone-form").unwrap()),
        given_at: None,
    };
    let first = verbs.give_consent(&person.id(), consent("ads", "1")).await.unwrap();
    let moment = || pass(Duration::from_millis(1));
    moment().await;
    let again = verbs.give_consent(&person.id(), consent("ads", "1")).await.unwrap();
    assert_eq!(again, first, "it is held already");
    verbs.give_consent(&person.id(), consent("ads", "2")).await.unwrap();
    moment().await;
    verbs.give_consent(&person.id(), consent("mail", "1")).await.unwrap();
    moment().await;
    let tomorrow =
        NewConsent { given_at: Some(world.gateway.env().now().plus(DAY)), ..consent("ads", "3") };
    let refused = verbs.give_consent(&person.id(), tomorrow).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "given_at", .. })));

    let ads = Purpose::parse("ads").unwrap();
    let withdrawn = verbs.withdraw_consent(&person.id(), &ads).await.unwrap();
    assert_eq!(withdrawn.len(), 2, "to both wordings");
    assert!(withdrawn.iter().all(|consent| consent.withdrawn_at.is_some()));
    let twice = verbs.withdraw_consent(&person.id(), &ads).await;
    assert!(matches!(twice, Err(Error::NotFound("consent"))));
    verbs.give_consent(&person.id(), consent("ads", "1")).await.unwrap();
    let history = verbs.consents(&person.id()).await.unwrap();
    let shown = history.iter().map(|it| (it.purpose.as_str(), it.withdrawn_at.is_some()));
    let expected = [("ads", true), ("ads", true), ("mail", false), ("ads", false)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);

    // Somebody who never paid is erased too, and what they agreed to can still be shown without them.
    let erased = verbs.erase_customer(&person.id()).await.unwrap();
    assert_eq!((erased.state(), erased.payments), (ErasureState::Done, 0));
    assert_eq!(verbs.consents(&person.id()).await.unwrap(), []);
    let left = verbs.consents(&CustomerId::of_erasure(erased.erasure.id).unwrap()).await.unwrap();
    assert_eq!(left.len(), 4);
    for (left, before) in left.iter().zip(&history) {
        assert_eq!((left.given_at, left.withdrawn_at), (before.given_at, before.withdrawn_at));
        assert_eq!(left.source, None);
    }
    let merchant = Scope::default().merchant;
    let all = PageRequest::first(PageRequest::LIMIT_MAX);
    let rows = world.gateway.storage().audit(&merchant, &Default::default(), all).await.unwrap();
    let count = |action| rows.data.iter().filter(|row| row.action == action).count();
    // To say the same once more changed nothing, and was not logged.
    assert_eq!(count(AuditAction::ConsentGive), 4);
    assert_eq!(count(AuditAction::ConsentWithdraw), 2, "one for each wording");
    assert_eq!(count(AuditAction::CustomerErase), 1);
}

#[tokio::test(start_paused = true)]
async fn consents_given_at_once_are_one_and_later_ones_are_their_own() {
    let (world, person) = (World::new(), Person::new("mk7gone"));
    let verbs = world.verbs();
    let consent = || NewConsent {
        purpose: Purpose::parse("ads").unwrap(),
        terms: TermsVersion::parse("1").unwrap(),
        source: None,
        given_at: None,
    };
    let ads = consent().purpose;
    let customer = person.id();
    let slow_max = Duration::from_millis(20);
    world.faults.set(Rates { slow: 1_000, slow_max, ..Rates::default() });
    // Withdrawn and given again, and given again by whoever comes back after an erasure: never what was there before.
    let mut seen = Vec::new();
    for round in 0..4 {
        let mut at_once = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (gateway, customer, new) = (world.gateway.clone(), customer.clone(), consent());
            at_once.spawn(async move { gateway.host().give_consent(&customer, new).await });
        }
        let given = at_once.join_all().await;
        let given: Vec<_> = given.into_iter().map(Result::unwrap).collect();
        assert!(given.iter().all(|one| one.id == given[0].id), "round {round}");
        assert!(!seen.contains(&given[0].id), "round {round}");
        seen.push(given[0].id);
        let held = verbs.consents(&customer).await.unwrap();
        assert_eq!(held.iter().filter(|one| one.withdrawn_at.is_none()).count(), 1);
        if round % 2 == 0 {
            verbs.withdraw_consent(&customer, &ads).await.unwrap();
        } else {
            verbs.erase_customer(&customer).await.unwrap();
        }
        pass(Duration::from_millis(1)).await;
    }
}

/// A gateway of its own storage, under this pepper.
fn peppered(pepper: &Pepper) -> Gateway {
    Gateway::builder()
        .with_storage(Arc::new(MemoryStorage::new()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .with_key_pepper(pepper.clone())
        .build()
        .unwrap()
}

#[tokio::test]
async fn who_was_erased_after_a_backup_is_erased_again_after_its_restore() {
    let pepper = Pepper::mint(&Env::system());
    let people = ["mk7a", "mk7b", "mk7c"].map(Person::new);
    let [first, second, stays] = &people;
    // The same people live in both: the one is what ran on, the other what was restored.
    let (ran_on, restored) = (peppered(&pepper), peppered(&pepper));
    for gateway in [&ran_on, &restored] {
        for person in &people {
            gateway.host().create_payment(person.payment("charge", "tok_visa")).await.unwrap();
        }
    }
    ran_on.host().erase_customer(&first.id()).await.unwrap();
    ran_on.host().create_payment(first.payment("comeback", "tok_visa")).await.unwrap();
    for person in [first, second] {
        ran_on.host().erase_customer(&person.id()).await.unwrap();
    }
    let log = ran_on.erasure_log(&Scope::default(), None).await.unwrap();
    assert_eq!((log.erasures.len(), log.next), (3, None));
    let lines: Vec<String> = log.erasures.iter().map(Erasure::to_line).collect();
    let log_text = lines.concat();
    assert!(
        people.iter().all(|person| !log_text.contains(person.id().as_str())),
        "it names nobody"
    );
    let log: Vec<Erasure> = lines.iter().map(|line| Erasure::from_line(line).unwrap()).collect();

    let done = restored.reapply_erasures(&log).await.unwrap();
    assert_eq!(done, Reapplied { erasures: 3, payments: 2, known: 0 });
    let read = everything_read(&restored).await.unwrap();
    assert!(!first.is_in(&read) && !second.is_in(&read));
    assert!(stays.is_in(&read));
    let again = restored.reapply_erasures(&log).await.unwrap();
    assert_eq!(again, Reapplied { erasures: 0, payments: 0, known: 3 });
    for erasure in &log {
        let there = restored.host().erasure(erasure.id).await.unwrap().unwrap();
        assert_eq!(there.erasure, *erasure);
    }
    assert_eq!(ran_on.reapply_erasures(&log).await.unwrap().known, 3);
}

#[tokio::test(start_paused = true)]
async fn money_under_way_is_settled_and_can_be_given_back() {
    let tokens = ["tok_visa", "tok_pending_then_ok", "tok_timeout_after_charge", "tok_slow_5000"];
    for token in tokens {
        let world = World::new();
        world.endpoint().await;
        let person = Person::new("mk7gone");
        // Erased while it is queued, while it is with the processor, and while its outcome is unknown or pending.
        for wait in [0, 1, 5, 12, 60] {
            let what = format!("wait-{wait}");
            let new = world.verbs().create_payment(person.payment(&what, token)).await.unwrap();
            let id = new.payment().id;
            let worker = world.worker();
            pass(Duration::from_secs(wait)).await;
            world.verbs().erase_customer(&person.id()).await.unwrap();
            let succeeded = |state: &PaymentState| state.payment.status == PaymentStatus::Succeeded;
            world.until(id, succeeded).await;
            let refund = world.verbs().refund_payment(id, NewRefund::default()).await.unwrap();
            let state = world.settled(id, Some(refund.operation)).await;
            assert_eq!(state.payment.refunded_minor, 4_999, "{token} {wait}");
            pass(Duration::from_secs(30)).await;
            worker.shutdown().await;
            assert!(!person.is_in(&everything_read(&world.gateway).await.unwrap()));
        }
        assert_eq!(world.sandbox.ledger().len(), 10, "five charges and five refunds of {token}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_however_often_storage_and_workers_fail() {
    let (world, gone, stays) = lived_in().await;
    let money = sums(&world).await;
    world.faults.set(Rates {
        read_fails: 300,
        commit_fails: 200,
        commit_lost: 100,
        commit_applied_unheard: 200,
        ..Rates::default()
    });
    let settings = WorkerSettings { reap: Duration::from_secs(1), ..WorkerSettings::default() };
    let mut erased = None;
    for round in 0..200_u64 {
        if erased.is_none() {
            erased = world.verbs().erase_customer(&gone.id()).await.ok();
        }
        // Dropped like a process that dies, at another moment each time.
        let worker = Worker::new(&world.gateway).with_settings(settings).start();
        pass(Duration::from_millis(round * 7 % 90)).await;
        drop(worker);
    }
    world.faults.set(Rates::default());
    let worker = world.worker();
    pass(DAY / 24).await;
    worker.shutdown().await;
    let erased = erased.expect("one of so many tries was heard").erasure;
    let all = world.verbs().erasures(Some(&gone.id()), PageRequest::default()).await.unwrap();
    assert_eq!(all.data.len(), 1, "asked for again and again, done once");
    assert_eq!((all.data[0].erasure.id, all.data[0].state()), (erased.id, ErasureState::Done));
    let read = everything_read(&world.gateway).await.unwrap();
    assert!(!gone.is_in(&read) && !gone.is_in(world.storage.dump().as_bytes()));
    assert_eq!(stays.missing_in(&read), [""; 0]);
    assert_eq!(sums(&world).await, money);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_payment_afterwards_names_nobody_either() {
    let (world, gone, _) = lived_in().await;
    let verbs = world.verbs();
    let worker = world.worker();
    let new = verbs.create_payment(gone.payment("late", "tok_visa")).await.unwrap();
    let id = new.payment().id;
    world.settled(id, None).await;
    let erased = verbs.erase_customer(&gone.id()).await.unwrap();
    pass(Duration::from_secs(60)).await;
    let done = verbs.erasure(erased.erasure.id).await.unwrap().unwrap();
    assert_eq!(done.state(), ErasureState::Done, "nobody will come and rewrite it again");

    // A caller says why, and gets an answer that is kept.
    let reason = Reason::parse("mk7gone-why and more").unwrap();
    let idempotency_key = Some(IdempotencyKey::parse("late-refund").unwrap());
    let refund = NewRefund { reason: Some(reason), idempotency_key, ..NewRefund::default() };
    let refund = verbs.refund_payment(id, refund).await.unwrap();
    let state = world.settled(id, Some(refund.operation)).await;
    assert_eq!(state.payment.refunded_minor, 4_999);
    assert_eq!(state.operation(refund.operation).unwrap().reason, None);
    pass(Duration::from_secs(60)).await;
    worker.shutdown().await;
    assert!(!gone.is_in(world.storage.dump().as_bytes()));
    assert!(!gone.is_in(&everything_read(&world.gateway).await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn nobody_new_is_called_like_an_erasure() {
    let (world, gone, _) = lived_in().await;
    let verbs = world.verbs();
    let erased = verbs.erase_customer(&gone.id()).await.unwrap();
    let pseudonym = CustomerId::of_erasure(erased.erasure.id).unwrap();
    let consent = NewConsent {
        purpose: Purpose::parse("ads").unwrap(),
        terms: TermsVersion::parse("1").unwrap(),
        source: None,
        given_at: None,
    };
    let given = verbs.give_consent(&pseudonym, consent).await;
    assert!(matches!(given, Err(Error::Invalid { field: "customer_id", code: "reserved", .. })));
    let mut payment = crate::world::new("tok_visa");
    payment.customer.id = Some(pseudonym);
    let paid = verbs.create_payment(payment).await;
    assert!(matches!(paid, Err(Error::Invalid { field: "customer_id", code: "reserved", .. })));
}
