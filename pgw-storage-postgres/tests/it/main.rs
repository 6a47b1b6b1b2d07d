//! The conformance suite over every way to PostgreSQL, and what only this crate promises.
//!
//! `PGW_TEST_POSTGRES`, `PGW_TEST_PGBOUNCER` and `PGW_TEST_PGBOUNCER_PREPARED` name the servers; `scripts/test` starts private ones.

mod answers;
mod audit;
mod behind;
mod cancel;
mod differential;
mod enlisted;
mod failures;
mod fixtures;
mod handoff;
mod lint;
mod locks;
mod migrations;
mod plans;
mod privacy;
mod queue;
mod races;
mod repeats;
mod rework;
mod sealing;
mod together;
mod world;

mod pool_conformance {
    pgw_core::storage_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Pool).await);
}

mod alone_conformance {
    pgw_core::storage_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Alone).await);
}

mod distributed_conformance {
    pgw_core::storage_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Distributed).await
    );
}

mod partitioned_conformance {
    pgw_core::storage_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Partitioned).await
    );
}

mod pooler_conformance {
    pgw_core::storage_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Pooler).await
    );
}

mod prepared_pooler_conformance {
    pgw_core::storage_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::PreparedPooler).await
    );
}

mod enlisted_conformance {
    pgw_core::storage_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Enlisted).await
    );
}

mod queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Pool).await);
}

mod conditional_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Alone).await);
}

mod distributed_queue_conformance {
    pgw_core::queue_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Distributed).await
    );
}

mod partitioned_queue_conformance {
    pgw_core::queue_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Partitioned).await
    );
}

mod pooler_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Pooler).await);
}

mod prepared_pooler_queue_conformance {
    pgw_core::queue_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::PreparedPooler).await
    );
}

mod behind_queue_conformance {
    pgw_core::queue_conformance!(crate::behind::OverMemory::test().await);
}

mod notifier_conformance {
    pgw_core::notifier_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Pool).await);
}

mod pooler_notifier_conformance {
    pgw_core::notifier_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::Pooler).await
    );
}

mod prepared_pooler_notifier_conformance {
    pgw_core::notifier_conformance!(
        crate::fixtures::Under::test(crate::fixtures::Leg::PreparedPooler).await
    );
}
