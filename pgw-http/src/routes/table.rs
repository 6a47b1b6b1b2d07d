//! The table: which method and path goes to which handler, and who may.

use axum::http::Method;
use pgw_core::access::Permission as May;

use super::Handler::{Open, Protected};
use super::{
    Route, api_keys, audit, customers, deliveries, endpoints, events, ip_denylist, notifications,
    payments, refunds,
};

macro_rules! table {
    ($($method:ident $path:literal => $access:ident[$($permission:ident)?] $handler:path,)*) => {
        pub(super) static ROUTES: [Route; [$($path),*].len()] = [$(Route {
            method: Method::$method,
            path: $path,
            handler: $access($(May::$permission,)? |call| Box::pin($handler(call))),
        },)*];
    };
}

table! {
    POST "/payments" => Protected[CreatePayments] payments::create,
    GET "/payments" => Protected[ReadPayments] payments::list,
    GET "/payments/{id}" => Protected[ReadPayments] payments::one,
    GET "/payments/{id}/events" => Protected[ReadPayments] payments::events,
    GET "/payments/{id}/operations" => Protected[ReadPayments] payments::operations,
    POST "/payments/{id}/confirm" => Protected[CreatePayments] payments::confirm,
    POST "/payments/{id}/capture" => Protected[MovePayments] payments::capture,
    POST "/payments/{id}/cancel" => Protected[MovePayments] payments::cancel,
    PATCH "/payments/{id}/refund" => Protected[Refund] refunds::create,
    POST "/payments/{id}/refunds" => Protected[Refund] refunds::create,
    POST "/payments/{id}/resolve" => Protected[Resolve] payments::resolve,
    GET "/refunds" => Protected[ReadPayments] refunds::list,
    GET "/refunds/{id}" => Protected[ReadPayments] refunds::one,
    POST "/processors/{name}/notifications" => Open[] notifications::receive,
    POST "/webhook-endpoints" => Protected[Administer] endpoints::create,
    GET "/webhook-endpoints" => Protected[Administer] endpoints::list,
    GET "/webhook-endpoints/{id}" => Protected[Administer] endpoints::one,
    PATCH "/webhook-endpoints/{id}" => Protected[Administer] endpoints::update,
    DELETE "/webhook-endpoints/{id}" => Protected[Administer] endpoints::delete,
    POST "/webhook-endpoints/{id}/rotate-secret" => Protected[Administer] endpoints::rotate_secret,
    POST "/webhook-endpoints/{id}/test" => Protected[Administer] endpoints::test,
    POST "/webhook-endpoints/{id}/recover" => Protected[Administer] endpoints::recover,
    GET "/webhook-events" => Protected[ReadDeliveries] deliveries::list,
    GET "/webhook-events/{id}" => Protected[ReadDeliveries] deliveries::one,
    GET "/webhook-events/{id}/attempts" => Protected[ReadDeliveries] deliveries::attempts,
    POST "/webhook-events/retry" => Protected[Administer] deliveries::retry_all,
    POST "/webhook-events/{id}/retry" => Protected[Administer] deliveries::retry,
    GET "/events" => Protected[ReadDeliveries] events::list,
    GET "/events/stream" => Protected[ReadDeliveries] events::stream,
    POST "/api-keys" => Protected[Administer] api_keys::create,
    GET "/api-keys" => Protected[Administer] api_keys::list,
    POST "/api-keys/revoke" => Protected[Administer] api_keys::revoke_all,
    GET "/api-keys/{id}" => Protected[Administer] api_keys::one,
    DELETE "/api-keys/{id}" => Protected[Administer] api_keys::revoke,
    POST "/ip-denylist" => Protected[Administer] ip_denylist::create,
    GET "/ip-denylist" => Protected[Administer] ip_denylist::list,
    DELETE "/ip-denylist" => Protected[Administer] ip_denylist::delete,
    GET "/audit-log" => Protected[ReadAudit] audit::list,
    DELETE "/customers/{customer}" => Protected[Administer] customers::erase,
    GET "/customers/{customer}/export" => Protected[Administer] customers::export,
    POST "/customers/{customer}/consents" => Protected[Administer] customers::give_consent,
    GET "/customers/{customer}/consents" => Protected[Administer] customers::consents,
    DELETE "/customers/{customer}/consents/{purpose}" => Protected[Administer] customers::withdraw_consent,
    GET "/erasures" => Protected[Administer] customers::erasures,
    GET "/erasures/{id}" => Protected[Administer] customers::erasure,
}
