//! The conformance suite over every backend of this crate, each behind an `Arc<dyn …>`, and what only this crate promises.

mod faulty;
mod fixtures;
mod planted;
mod queue;
mod queue_model;
mod storage;

mod storage_conformance {
    pgw_core::storage_conformance!(crate::fixtures::StorageUnderTest::new());
}

mod queue_conformance {
    pgw_core::queue_conformance!(crate::fixtures::QueueUnderTest::new());
}

mod notifier_conformance {
    pgw_core::notifier_conformance!(crate::fixtures::NotifierUnderTest::new());
}

mod rate_limiter_conformance {
    pgw_core::rate_limiter_conformance!(crate::fixtures::RateLimiterUnderTest::new());
}

mod wrapped_storage_conformance {
    pgw_core::storage_conformance!(
        crate::faulty::Wrapped(crate::fixtures::StorageUnderTest::new())
    );
}

mod wrapped_queue_conformance {
    pgw_core::queue_conformance!(crate::faulty::Wrapped(crate::fixtures::QueueUnderTest::new()));
}

mod wrapped_notifier_conformance {
    pgw_core::notifier_conformance!(crate::faulty::Wrapped(
        crate::fixtures::NotifierUnderTest::new()
    ));
}
