//! HTTP/1.1 messages of a connection that is kept: as little of it as a load and a sink need, so that they take little of the processors that
//! they share with what is measured.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection on which messages come one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer is the message that was read last.
    used: usize,
}

/// A request or an answer whose body has a `Content-Length`, or none.
#[derive(Debug, Clone, Copy)]
pub struct Message<'c> {
    head: &'c str,
    /// The body.
    pub body: &'c [u8],
}

impl Connection {
    /// On this stream.
    ///
    /// # Errors
    /// When the stream is gone already.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4_096), used: 0 })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message; none when the other side has closed the connection after the one before.
    ///
    /// # Errors
    /// When the connection is gone in the middle of a message, or what comes is no message.
    pub async fn read(&mut self) -> io::Result<Option<Message<'_>>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let (head, body) = loop {
            if let Some((head, body)) = extent(&self.buffer)?
                && self.buffer.len() >= head + body
            {
                break (head, body);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        };
        self.used = head + body;
        let (head, body) = self.buffer[..self.used].split_at(head);
        Ok(Some(Message { head: text(head)?, body }))
    }
}

impl<'c> Message<'c> {
    /// The status of an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.head.split(' ').nth(1)?.parse().ok()
    }

    /// The headers, with their names as they came.
    pub fn headers(&self) -> impl Iterator<Item = (&'c str, &'c str)> + use<'c> {
        fields(self.head)
    }
}

/// The lengths of head and body of the message that the bytes start with, once its head is there.
fn extent(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = text(&bytes[..end + 4])?;
    let length = fields(head).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Ok(0), |(_, value)| value.parse());
    let length = length.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((head.len(), length)))
}

fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "))
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
