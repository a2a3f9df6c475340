//! An answer's body, read by a parser while it arrives: a node's pods are megabytes, and most of it is not wanted.

use std::io::{BufReader, Read};

use bytes::{Buf, Bytes};
use reqwest::Response;
use tokio::sync::mpsc::{self, Receiver};

use super::super::{Failure, chain};

/// Pieces that wait for the parser.
const WAITING: usize = 4;
/// Bytes that the parser takes at a time.
const BUFFER: usize = 32 << 10;

/// Runs `parse` over the body, on a thread that may wait.
pub(super) async fn parse<T: Send + 'static>(
    mut response: Response,
    max_bytes: u64,
    parse: impl FnOnce(BufReader<Pieces>) -> serde_json::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let pieces = Pieces { receiver, now: Bytes::new() };
    let parser = tokio::task::spawn_blocking(move || parse(BufReader::with_capacity(BUFFER, pieces)));
    let mut bytes = 0_u64;
    // When this future is dropped, the parser comes to an end too: its reader has no more to give.
    let broken = loop {
        match response.chunk().await {
            Ok(Some(piece)) => {
                bytes = bytes.saturating_add(piece.len() as u64);
                if bytes > max_bytes {
                    break Some(Failure::new("too large", format!("an answer of more than {max_bytes} bytes")));
                }
                // A parser that has seen enough to give up says so below.
                if sender.send(piece).await.is_err() {
                    break None;
                }
            }
            Ok(None) => break None,
            Err(e) => break Some(Failure::new("connection", chain(&e.without_url()))),
        }
    };
    drop(sender);
    let parsed = parser.await.map_err(|e| Failure::new("not understood", e))?;
    match broken {
        Some(failure) => Err(failure),
        None => parsed.map_err(|e| Failure::new("not understood", e)),
    }
}

/// The pieces of a body, one behind the other.
pub(super) struct Pieces {
    receiver: Receiver<Bytes>,
    now: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.now.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.now = piece,
                None => return Ok(0),
            }
        }
        let taken = out.len().min(self.now.len());
        let Some(room) = out.get_mut(..taken) else { return Ok(0) };
        self.now.copy_to_slice(room);
        Ok(taken)
    }
}
