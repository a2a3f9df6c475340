//! Accepts connections and serves them, each within bounds of time and size.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustc_hash::FxHashMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Connections at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 128;

/// Connections of one peer at once; further ones are closed. So one peer alone cannot keep the others waiting.
const MAX_CONNECTIONS_PER_PEER: usize = 48;

/// A request's line and headers, in bytes.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Headers of one request.
const MAX_HEADERS: usize = 64;

/// Time for a request's headers to arrive, and for an idle connection to be used again.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest that one connection is served: longer than the longest profile, so that a reader that stands still gives
/// its place back some time.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Time for requests under way when the server stops.
const GRACE: Duration = Duration::from_secs(3);

/// The pause after accepting failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Who asks, and which of our addresses was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Serves until `shutdown` completes.
pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    stop: watch::Sender<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let peers = Arc::new(Peers::default());
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut failures = 0_u64;
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((place, stream, ends)) => {
                let Some(seat) = Peers::seat(&peers, ends.peer.ip()) else { continue };
                let connection = graceful.watch(connection(stream, router.clone(), ends));
                tokio::spawn(async move {
                    // An error here is the peer's: it went away, was too slow, or did not speak HTTP.
                    let _ = tokio::time::timeout(CONNECTION_LIFETIME, connection).await;
                    drop((place, seat));
                });
            }
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(%error, failures, "a connection to the web port could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}

/// How many connections each peer has.
#[derive(Debug, Default)]
struct Peers(Mutex<FxHashMap<IpAddr, usize>>);

/// One connection of a peer; dropped, it is counted no more.
#[derive(Debug)]
struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    /// Counts a connection; none where the peer has enough.
    fn seat(peers: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let peer = peer.to_canonical();
        let mut counts = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= MAX_CONNECTIONS_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Seat { peers: Arc::clone(peers), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, TcpStream, Ends)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    let local = stream.local_addr()?;
    // An answer is written in one go: waiting for more to send only costs time.
    stream.set_nodelay(true)?;
    Ok((place, stream, Ends { peer, local }))
}

fn connection(
    stream: TcpStream,
    router: Router,
    ends: Ends,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.layer(Extension(ends))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_so_many_seats_and_others_have_their_own() {
        let peers = Arc::new(Peers::default());
        let seat = |peer: &str| Peers::seat(&peers, peer.parse().unwrap());
        let mut taken: Vec<_> = (0..MAX_CONNECTIONS_PER_PEER).map(|_| seat("10.0.0.1").unwrap()).collect();
        assert!(seat("10.0.0.1").is_none() && seat("::ffff:10.0.0.1").is_none());
        assert!(seat("10.0.0.2").is_some());
        taken.pop();
        assert!(seat("10.0.0.1").is_some());
        taken.clear();
        assert!(peers.0.lock().unwrap().is_empty(), "who is gone leaves nothing behind");
    }
}
