//! A job as the bytes that stand for it in Redis, and back.

use pgw_core::id::{DeliveryId, EndpointId, EventId, OperationId, PaymentId};
use pgw_core::queue::{Job, Lane};
use pgw_core::scope::{Mode, Scope};
use uuid::Uuid;

/// The bytes of a job: a letter for the mode, two ids of 16 bytes, the merchant; `None` for a kind this version does not know.
///
/// The scripts take from it whose share a delivery counts for: all but the first id.
pub(crate) fn member(job: &Job) -> Option<Vec<u8>> {
    let (scope, first, second) = match job {
        Job::Operation { scope, payment, operation } => {
            (scope, payment.as_uuid(), operation.as_uuid())
        }
        Job::Delivery { scope, delivery } => {
            (scope, delivery.event().as_uuid(), delivery.endpoint().as_uuid())
        }
        _ => return None,
    };
    let merchant = scope.merchant.as_str();
    let mut bytes = Vec::with_capacity(IDS_END + merchant.len());
    bytes.push(if scope.mode == Mode::Live { b'l' } else { b't' });
    bytes.extend_from_slice(first.as_bytes());
    bytes.extend_from_slice(second.as_bytes());
    bytes.extend_from_slice(merchant.as_bytes());
    Some(bytes)
}

/// The job of these bytes; `None` when there is none.
pub(crate) fn job(lane: Lane, member: &[u8]) -> Option<Job> {
    let mode = match member.first()? {
        b'l' => Mode::Live,
        b't' => Mode::Test,
        _ => return None,
    };
    let id = |from: usize| Uuid::from_slice(member.get(from..from + ID)?).ok();
    let (first, second) = (id(1)?, id(1 + ID)?);
    let merchant = std::str::from_utf8(member.get(IDS_END..)?).ok()?;
    let scope = Scope::new(merchant.parse().ok()?, mode);
    Some(match lane {
        Lane::Operations => {
            let (payment, operation) =
                (PaymentId::from_uuid(first), OperationId::from_uuid(second));
            Job::Operation { scope, payment, operation }
        }
        Lane::Deliveries => {
            let (event, endpoint) = (EventId::from_uuid(first), EndpointId::from_uuid(second));
            Job::Delivery { scope, delivery: DeliveryId::new(event, endpoint) }
        }
        _ => return None,
    })
}

const ID: usize = 16;
const IDS_END: usize = 1 + 2 * ID;

#[cfg(test)]
mod tests {
    use pgw_core::testing::sample::Samples;

    use super::*;

    #[test]
    fn a_job_comes_back_as_it_was() {
        let samples = Samples::new(1);
        for scope in samples.foreign() {
            let there = samples.of(scope);
            for lane in Lane::ALL {
                let made = there.job(lane);
                assert_eq!(job(lane, &member(&made).unwrap()), Some(made));
            }
        }
    }

    #[test]
    fn other_bytes_are_no_job() {
        let good = member(&Samples::new(1).job(Lane::Operations)).unwrap();
        for bad in [&b""[..], b"t", &good[..20], &good[..33], &[b"x", &good[1..]].concat()] {
            assert_eq!(job(Lane::Operations, bad), None, "{bad:?}");
        }
    }
}
