//! [`Patience`]: how long an HTTP/2 peer may take nothing of an answer.
//!
//! Over HTTP/1.1 the socket tells. Over HTTP/2 a peer can read the socket, answer pings and keep the window of one answer shut
//! (RFC 9113 §5.2): hyper then waits for as long as the connection lives, and so do the answer's memory and its place among streams.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::watch;

/// Runs the requests of a connection, each on a task of its own, and ends the ones whose answers are not taken: the peer gets
/// RST_STREAM.
#[derive(Debug, Clone)]
pub(super) struct Patience(Duration);

impl Patience {
    pub(super) const fn new(patience: Duration) -> Self {
        Self(patience)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Patience {
    fn execute(&self, request: F) {
        let turn = watch::Sender::new(Turn::Ours);
        let stalled = stalled(turn.subscribe(), self.0);
        tokio::spawn(TURN.scope(turn, async move {
            tokio::select! {
                biased;
                () = request => {}
                () = stalled => tracing::debug!("nobody takes an answer; it is given up"),
            }
        }));
    }
}

tokio::task_local! {
    /// Of the request that is answered on this task.
    static TURN: watch::Sender<Turn>;
}

/// Whom an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Whoever makes it.
    Ours,
    /// The peer, who has to take what there is before hyper asks for more.
    Theirs,
}

/// An answer whose body says whose turn it is. To be called where [`Patience`] runs the request.
pub(super) fn watched(answer: Response) -> Response {
    let turn = TURN.with(Clone::clone);
    answer.map(|body| {
        turn.send_replace(Turn::Theirs);
        Body::new(Watched { body, rest: Bytes::new(), turn })
    })
}

/// Waits until it was the peer's turn for so long without a break.
async fn stalled(mut turn: watch::Receiver<Turn>, patience: Duration) {
    // The sender goes with the request, and this with both.
    while turn.wait_for(|turn| *turn == Turn::Theirs).await.is_ok() {
        if tokio::time::timeout(patience, turn.changed()).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}

/// A body in small pieces: hyper asks for the next once the peer has made room for the one before, which tells a slow reader from one that
/// does not read.
struct Watched {
    body: Body,
    rest: Bytes,
    turn: watch::Sender<Turn>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.turn.send_replace(Turn::Ours);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(piece);
        self.turn.send_replace(Turn::Theirs);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// What HTTP/2 sends as one frame by default (RFC 9113 §6.5.2).
const PIECE_BYTES: usize = 16 * 1024;
