//! The socket of `:2112`: metrics and health for everybody; the page and profiles for whom they are meant.
//!
//! **In**: requests from anyone who reaches the port; all hostile. **Out**: text, JSON, pprof, the page's files.
//! **Limits**: the constants of [`server`] bound connections, headers and time; those of this module bound how much is
//! worked on at once. What is over a bound waits or is refused, and the refusal says so.
//!
//! Who may see what: stacks of a whole machine are sensitive, a metric is not. So profiles are shown to loopback peers
//! only, unless configured ([`AllowedFrom`]); `kubectl port-forward` and `ssh -L` arrive from loopback and just work. A
//! web site that a person on the machine visits also reaches loopback: it is kept out by the `Host` it has to name
//! ([`access`]) and by the headers of every answer.

mod access;
mod api;
mod assets;
mod filter;
mod pprof;
mod query;
mod select;
mod server;
mod tree;

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Semaphore, watch};

use crate::health::{self, Health};
use crate::metrics::{Metrics, TEXT_FORMAT};
use crate::store::Store;

/// Scrapes that are worked on at once.
const SCRAPES: usize = 2;

/// Trees and profiles that are built at once: each takes a CPU and some memory.
const BUILDS: usize = 2;

/// Requests for profiles of the future that wait at once; more are refused.
const WAITERS: usize = 16;

/// Who may see profiles: the page, its data, and pprof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedFrom {
    /// Peers on the loopback interface, that ask for a loopback name or an address.
    #[default]
    Loopback,
    /// Whoever reaches the port.
    Any,
}

/// Who may see what.
#[derive(Clone, Debug)]
pub struct WebSettings {
    /// Who may see profiles.
    pub profiles_allowed_from: AllowedFrom,
    /// How to allow profiles to everybody, as an instruction to the operator: told to whom they are refused.
    pub how_to_allow: String,
    /// The comment in pprof files, for instance the profiler's version; may be empty.
    pub pprof_comment: String,
    /// Whether `/metrics` is answered (`OTEL_METRICS_EXPORTER` names `prometheus`).
    pub metrics: bool,
}

impl Default for WebSettings {
    fn default() -> Self {
        Self {
            profiles_allowed_from: AllowedFrom::default(),
            how_to_allow: "configure the profiler to show profiles to any peer".to_owned(),
            pprof_comment: String::new(),
            metrics: true,
        }
    }
}

/// The socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The listener cannot be used.
    #[error("the listening socket cannot be used: {0}")]
    Listener(#[from] std::io::Error),
}

/// What every handler may use.
struct App {
    settings: WebSettings,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    health: Arc<dyn Health>,
    scrapes: Arc<Semaphore>,
    builds: Arc<Semaphore>,
    waiters: Semaphore,
    /// Turns true when the server stops: whoever waits for the future gives up.
    stopping: watch::Receiver<bool>,
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
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (stop, stopping) = watch::channel(false);
    let app = Arc::new(App {
        settings,
        store,
        metrics,
        health,
        scrapes: Arc::new(Semaphore::new(SCRAPES)),
        builds: Arc::new(Semaphore::new(BUILDS)),
        waiters: Semaphore::new(WAITERS),
        stopping,
    });
    server::run(listener, router(app), shutdown, stop).await;
    Ok(())
}

fn router(app: Arc<App>) -> Router {
    let profiles = Router::new()
        .route("/", get(assets::index))
        .route("/assets/{name}", get(assets::file))
        .route("/api/windows", get(api::windows))
        .route("/api/flame", get(api::flame))
        .route("/api/profile.pb.gz", get(api::pprof))
        .route("/api/profile.folded", get(api::folded))
        .route("/debug/pprof", get(pprof::index))
        .route("/debug/pprof/", get(pprof::index))
        .route("/debug/pprof/profile", get(pprof::profile))
        .route_layer(from_fn_with_state(Arc::clone(&app), access::check));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .merge(profiles)
        .fallback(async || (StatusCode::NOT_FOUND, "There is nothing here. The page is at /, metrics at /metrics.\n"))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here.\n")
        })
        .layer(map_response(async |response: Response| with_security_headers(response)))
        .with_state(app)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    if !app.settings.metrics {
        return (
            StatusCode::NOT_FOUND,
            "Metrics are not shown here: OTEL_METRICS_EXPORTER does not name prometheus.\n",
        )
            .into_response();
    }
    let metrics = Arc::clone(&app.metrics);
    match work(&app.scrapes, move || metrics.render()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(status) => (status, "the metrics could not be collected\n").into_response(),
    }
}

/// Does something that takes a while on a thread for that, of which there are few. The place is given back when the job
/// ends, not when whoever asked for it goes away.
async fn work<T: Send + 'static>(
    places: &Arc<Semaphore>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StatusCode> {
    let place = Arc::clone(places).acquire_owned().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let job = move || {
        let done = job();
        drop(place);
        done
    };
    tokio::task::spawn_blocking(job).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn live(State(app): State<Arc<App>>) -> impl IntoResponse {
    health::answer(app.health.live())
}

async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    health::answer(app.health.ready())
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the profiler is stopping\n").into_response()
}

/// Nothing is cached, nothing is framed, nothing is sniffed, and a page of ours loads only what we serve.
fn with_security_headers(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 7] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
