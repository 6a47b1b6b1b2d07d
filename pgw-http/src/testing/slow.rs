//! [`SlowResolver`]: a name server that takes its time.

use std::future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::transport::Resolver;

/// Resolves every name to one address, late or never.
///
/// The deadline of a request spans the look-up: a sender reports
/// [`Timeout`](pgw_core::webhook::TransportErrorKind::Timeout) and connects to nobody, also not when the answer comes after
/// the deadline.
#[derive(Debug, Clone, Copy)]
pub struct SlowResolver {
    answer: Option<(Duration, IpAddr)>,
}

impl SlowResolver {
    /// Never answers.
    #[must_use]
    pub const fn silent() -> Self {
        Self { answer: None }
    }

    /// Answers each look-up with this address after this time.
    #[must_use]
    pub const fn late(after: Duration, address: IpAddr) -> Self {
        Self { answer: Some((after, address)) }
    }
}

#[async_trait]
impl Resolver for SlowResolver {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        let Some((after, address)) = self.answer else { return future::pending().await };
        tokio::time::sleep(after).await;
        Ok(vec![address])
    }
}
