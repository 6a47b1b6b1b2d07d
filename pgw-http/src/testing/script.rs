//! What each behaviour says on a connection, byte for byte. What a sender should make of it is in `behaviour.rs`.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::testing::Behaviour;
pub(super) use crate::testing::peer::Peer;

/// Plays a behaviour until one side hangs up.
pub(super) async fn play<S>(behaviour: Behaviour, mut peer: Peer<'_, S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match behaviour {
        Behaviour::HangAfterAccept | Behaviour::HangInHandshake => return peer.outwait().await,
        Behaviour::ResetBeforeRequest => return Ok(()),
        Behaviour::PlainTextOnTls => {
            peer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
            return peer.outwait().await;
        }
        _ => {}
    }
    // A sender that should have hung up and sends another request on the connection is answered and counted.
    while let Some(target) = peer.request().await? {
        if answer(behaviour, &target, &mut peer).await? == Then::HangUp {
            break;
        }
    }
    Ok(())
}

/// What becomes of a connection after an answer.
#[derive(PartialEq, Eq)]
enum Then {
    Listen,
    HangUp,
}

async fn answer<S>(behaviour: Behaviour, target: &str, peer: &mut Peer<'_, S>) -> io::Result<Then>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match behaviour {
        Behaviour::DripHeaders => {
            peer.write(b"HTTP/1.1 200 OK\r\nx-drip: ").await?;
            peer.drip(DRIPS).await?;
            peer.write(b"\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Behaviour::DripBody => {
            peer.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {DRIPS}\r\n\r\n").as_bytes())
                .await?;
            peer.drip(DRIPS).await?;
        }
        Behaviour::EndlessBody => {
            peer.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {GIB}\r\n\r\n").as_bytes())
                .await?;
            peer.repeat(b"x", GIB).await?;
        }
        Behaviour::GzipBomb => {
            let length = GZIP_HEAD.len() + GZIP_TIMES * GZIP_UNIT.len() + GZIP_TAIL.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n"
            );
            peer.write(head.as_bytes()).await?;
            peer.write(&GZIP_HEAD).await?;
            peer.repeat(&GZIP_UNIT, GZIP_TIMES * GZIP_UNIT.len()).await?;
            peer.write(&GZIP_TAIL).await?;
        }
        Behaviour::HugeHeader => {
            peer.write(b"HTTP/1.1 200 OK\r\nx-huge: ").await?;
            peer.repeat(b"x", HUGE).await?;
            peer.write(b"\r\ncontent-length: 0\r\n\r\n").await?;
        }
        Behaviour::EndlessHeaders => {
            peer.write(b"HTTP/1.1 200 OK\r\n").await?;
            peer.repeat(b"x-endless: x\r\n", GIB).await?;
        }
        Behaviour::ContinueFlood => peer.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", GIB).await?,
        Behaviour::RedirectChain => peer.write(hop(target).as_bytes()).await?,
        Behaviour::ResetAfterRequest => return Ok(Then::HangUp),
        Behaviour::HalfClose => {
            peer.end().await?;
            peer.outwait().await?;
            return Ok(Then::HangUp);
        }
        _ => peer.write(canned(behaviour).as_bytes()).await?,
    }
    // These two are what they are only when the connection ends.
    let ends = matches!(behaviour, Behaviour::LengthTooLong | Behaviour::Http09);
    Ok(if ends { Then::HangUp } else { Then::Listen })
}

/// The answer of a behaviour that has one of a few bytes.
const fn canned(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::HangAfterHeaders => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        Behaviour::RedirectToMetadata => {
            "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
        }
        Behaviour::LengthTooLong => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nok",
        Behaviour::LengthTooShort => {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 202 Accepted\r\ncontent-length: 6\r\n\r\nforged"
        }
        Behaviour::LengthNegative => "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
        Behaviour::LengthTwice => {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"
        }
        Behaviour::BadChunk => {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"
        }
        Behaviour::Garbage => "SSH-2.0-OpenSSH_9.7\r\n\r\n",
        Behaviour::Http09 => "<html>ok</html>\r\n",
        Behaviour::Upgrade => {
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        }
        Behaviour::Gone => "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
        Behaviour::RetryAfterHuge => {
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1000000000000000000\r\ncontent-length: 0\r\n\r\n"
        }
        Behaviour::RetryAfterYear9999 => {
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\ncontent-length: 0\r\n\r\n"
        }
        Behaviour::RetryAfterNegative => {
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: -1\r\ncontent-length: 0\r\n\r\n"
        }
        Behaviour::RetryAfterGarbage => {
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: \u{fd}soon\r\ncontent-length: 0\r\n\r\n"
        }
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    }
}

/// The answer to one request of a chain of redirects; the target says which one it is.
fn hop(target: &str) -> String {
    let hop = target.trim_start_matches('/').parse().unwrap_or(0) + 1;
    if hop > HOPS {
        return canned(Behaviour::WellBehaved).to_owned();
    }
    format!("HTTP/1.1 302 Found\r\nlocation: /{hop}\r\ncontent-length: 0\r\n\r\n")
}

/// As good as endless, and yet bounded.
const GIB: usize = 1024 * 1024 * 1024;
/// A header that no library takes.
const HUGE: usize = 16 * 1024 * 1024;
/// Bytes that drip: at one a second, a day's worth.
const DRIPS: usize = 24 * 60 * 60;
/// Redirects in a chain.
const HOPS: u32 = 1000;

/// The header of a gzip stream (RFC 1952 §2.3), and the start of its only block: the fixed Huffman code (RFC 1951 §3.2.6), a
/// zero byte, and 258 copies of it.
const GZIP_HEAD: [u8; 13] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 0x63, 0x18, 0x05];
/// Eight times "the last byte 258 times more", which is 13 bits each.
const GZIP_UNIT: [u8; 13] =
    [0xa3, 0x60, 0x14, 0x8c, 0x82, 0x51, 0x30, 0x0a, 0x46, 0xc1, 0x28, 0x18, 0x05];
/// How often it takes to have 1 GiB.
const GZIP_TIMES: usize = 520_224;
/// The end of the block, the checksum and the length of what it expands to.
const GZIP_TAIL: [u8; 9] = [0, 0xeb, 0x0c, 0x52, 0x3d, 0x03, 0x03, 0x00, 0x40];
