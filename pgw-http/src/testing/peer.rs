//! [`Peer`]: the sender at the other end of a connection. Reads just enough HTTP to know where a request ends, and counts
//! what it writes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::testing::receiver::Counters;

/// The sender.
pub(super) struct Peer<'a, S> {
    stream: S,
    counters: &'a Arc<Counters>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Peer<'a, S> {
    pub(super) const fn new(stream: S, counters: &'a Arc<Counters>) -> Self {
        Self { stream, counters }
    }

    /// Reads one request, headers and body; gives its target, or `None` when the sender hung up.
    pub(super) async fn request(&mut self) -> io::Result<Option<String>> {
        let mut seen = Vec::new();
        let head_len = loop {
            if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill(&mut seen).await? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&seen[..head_len]).to_ascii_lowercase();
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let chunked = value("transfer-encoding:").is_some();
        let length = value("content-length:").and_then(|text| text.trim().parse().ok());
        let whole = head_len.saturating_add(length.unwrap_or(0));
        while (chunked && !seen.ends_with(b"0\r\n\r\n")) || seen.len() < whole {
            if !self.fill(&mut seen).await? {
                return Ok(None);
            }
        }
        self.counters.count_request();
        Ok(Some(head.split(' ').nth(1).unwrap_or_default().to_owned()))
    }

    /// Writes these bytes.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.stream.write(bytes).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.counters.count_written(taken);
            bytes = &bytes[taken..];
        }
        self.stream.flush().await
    }

    /// Writes this over and over, until at least so many bytes are written.
    pub(super) async fn repeat(&mut self, unit: &[u8], bytes: usize) -> io::Result<()> {
        let block = unit.repeat(BLOCK.div_ceil(unit.len()));
        let mut left = bytes.div_ceil(unit.len()) * unit.len();
        while left > 0 {
            let now = left.min(block.len());
            self.write(&block[..now]).await?;
            left -= now;
        }
        Ok(())
    }

    /// Writes so many bytes one by one, slowly.
    pub(super) async fn drip(&mut self, bytes: usize) -> io::Result<()> {
        for _ in 0..bytes {
            self.write(b"x").await?;
            // Between two drips only the sender can say something, and all it has to say is that it hangs up.
            if let Ok(hung_up) = tokio::time::timeout(DRIP_INTERVAL, self.outwait()).await {
                return hung_up.and(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    /// Ends this side of the connection.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Says nothing until the sender hangs up.
    pub(super) async fn outwait(&mut self) -> io::Result<()> {
        let mut ignored = [0; 1024];
        while self.stream.read(&mut ignored).await? > 0 {}
        Ok(())
    }

    /// Reads what is there; `false` when the sender hung up.
    async fn fill(&mut self, seen: &mut Vec<u8>) -> io::Result<bool> {
        if seen.len() > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(self.stream.read_buf(seen).await? > 0)
    }
}

/// Between two drips: slow enough that no sensible deadline sees the end.
const DRIP_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a request: 16 times what a webhook has.
const REQUEST_MAX: usize = 1024 * 1024;
/// Bytes written at a time, about: enough to keep a sender busy.
const BLOCK: usize = 16 * 1024;
