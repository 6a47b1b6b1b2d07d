//! The conformance suite over Redis in every form, and what only this crate promises.
//!
//! `PGW_TEST_REDIS` and `PGW_TEST_REDIS_CLUSTER` name the servers; `scripts/test` starts private ones. Those that are to fail are started by the
//! tests themselves.

mod fixtures;
mod limiter;
mod loss;
mod outages;
mod parts;
mod places;

mod node_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Node));
}

mod parts_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Parts));
}

mod cluster_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Cluster));
}

mod proxy_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Under::recovered().await);
}

mod fallback_queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::Behind::test());
}

mod node_notifier_conformance {
    pgw_core::notifier_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Node));
}

mod cluster_notifier_conformance {
    pgw_core::notifier_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Cluster));
}

mod proxy_notifier_conformance {
    pgw_core::notifier_conformance!(crate::fixtures::Under::recovered().await);
}

mod node_rate_limiter_conformance {
    pgw_core::rate_limiter_conformance!(crate::fixtures::Under::test(crate::fixtures::Leg::Node));
}

mod cluster_rate_limiter_conformance {
    pgw_core::rate_limiter_conformance!(crate::fixtures::Under::test(
        crate::fixtures::Leg::Cluster
    ));
}

mod proxy_rate_limiter_conformance {
    pgw_core::rate_limiter_conformance!(crate::fixtures::Under::recovered().await);
}
