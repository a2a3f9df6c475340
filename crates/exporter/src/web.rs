//! The socket of `:2112`: metrics and health for everybody; the page and profiles for whom they are meant.
//!
//! **In**: requests, from anyone who reaches the port; all hostile. **Out**: text, JSON, pprof. **Limits**:
//! [`WebSettings`].

use std::net::TcpListener;
use std::sync::Arc;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::store::Store;

/// Who may see profiles: the page, its data, and pprof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedFrom {
    /// Peers on the loopback interface.
    #[default]
    Loopback,
    /// Whoever reaches the port.
    Any,
}

/// Who may see what, and how much at once.
#[derive(Clone, Debug, Default)]
pub struct WebSettings {
    /// Who may see profiles.
    pub profiles_allowed_from: AllowedFrom,
}

/// The socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The listener cannot be used.
    #[error("the listening socket cannot be used: {0}")]
    Listener(#[from] std::io::Error),
}

/// Serves until `shutdown` completes, then lets the requests under way finish for a short while.
///
/// # Errors
/// [`WebError::Listener`] where the socket cannot be handed to the runtime.
pub async fn serve(
    listener: TcpListener,
    settings: WebSettings,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    health: Arc<dyn Health>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), WebError> {
    let _ = (listener, settings, store, metrics, health);
    shutdown.await;
    Ok(())
}
