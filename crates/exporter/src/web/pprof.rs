//! `/debug/pprof/`: what `go tool pprof http://localhost:2112/debug/pprof/profile?seconds=30` talks to.
//!
//! As Go's endpoint: the answer comes after the wished time, as a gzipped pprof file; errors are plain text under
//! `X-Go-Pprof`, which the tool shows. It differs in that a profile consists of whole base windows: it may start up to one
//! window earlier and end up to one later, and says so in its own time and duration.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::filter::FilterQuery;
use super::query::number;
use super::{App, api, stopping};

/// The longest profile, in seconds.
const MAX_SECONDS: u64 = 300;

/// How long a profile is where the request does not say, in seconds.
const DEFAULT_SECONDS: u64 = 30;

/// How much later than its end a window may be published: it has to close first, and to be named.
const PUBLISH_SLACK: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProfileQuery {
    seconds: Option<String>,
    #[serde(flatten)]
    filter: FilterQuery,
}

pub(super) async fn index() -> &'static str {
    "/debug/pprof/\n\n\
     profile?seconds=30   CPU profile of the whole machine over the next 1 to 300 seconds, in whole windows\n\n\
     For example:\n\n\
     \x20   go tool pprof -http=: 'http://localhost:2112/debug/pprof/profile?seconds=30'\n\n\
     Of some processes only: &pid=N, &namespace=NAME, &pod=NAME, &container=NAME (or its id), &service=NAME.\n\
     Of the past: /api/profile.pb.gz?seconds=300, with the same.\n"
}

pub(super) async fn profile(State(app): State<Arc<App>>, Query(query): Query<ProfileQuery>) -> Response {
    let seconds = query.seconds.as_deref().map_or(Ok(DEFAULT_SECONDS), |s| number("seconds", s, 1, MAX_SECONDS));
    let (seconds, filter) = match seconds.and_then(|seconds| Ok((seconds, query.filter.filter()?))) {
        Ok(wanted) => wanted,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Ok(_waiter) = app.waiters.try_acquire() else {
        return failed(StatusCode::SERVICE_UNAVAILABLE, "too many profiles are being taken, try again later");
    };
    let from = unix_ns(SystemTime::now());
    let to = from.saturating_add(seconds.saturating_mul(1_000_000_000));
    let mut stop = app.stopping.clone();
    let published = tokio::select! {
        published = app.store.wait_until(to, Duration::from_secs(seconds) + PUBLISH_SLACK) => published,
        _ = stop.wait_for(|&stop| stop) => return stopping(),
    };
    if let Err(error) = published {
        return failed(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; /readyz may say why"));
    }
    let (_, profiles) = app.store.range(from, to);
    match api::encode(&app, profiles, filter).await {
        Ok(bytes) => api::download("application/octet-stream", "profile", bytes),
        Err(status) => failed(status, "the profile could not be encoded"),
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0)
}

/// An error as Go's endpoint gives it: `go tool pprof` shows the text of such an answer.
fn failed(status: StatusCode, text: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (HeaderName::from_static("x-go-pprof"), HeaderValue::from_static("1")),
    ];
    (status, headers, format!("{text}\n")).into_response()
}
