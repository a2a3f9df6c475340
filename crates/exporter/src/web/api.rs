//! What the page asks for: the list of windows, the tree of a range, and the same range as files.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use profile::{Profile, Span};
use serde::Serialize;

use super::filter::Filter;
use super::query::{QueryError, RangeQuery};
use super::select::select;
use super::tree::{self, FlameTree, TreeOptions};
use super::{App, work};
use crate::{folded, pprof};

/// Every window that is kept, oldest first, as columns. Nanoseconds are texts: JavaScript's numbers end at 2^53.
#[derive(Debug, Default, Serialize)]
struct Windows {
    from_ns: Vec<String>,
    to_ns: Vec<String>,
    samples: Vec<u64>,
    /// Nanoseconds between two ticks of one CPU; 0 before the first window.
    period_ns: u64,
}

/// A range's tree, and what the range really covers.
#[derive(Debug, Serialize)]
struct Flame {
    from_ns: String,
    to_ns: String,
    windows: usize,
    /// Nanoseconds of CPU time that one sample stands for.
    period_ns: u64,
    tree: FlameTree,
}

pub(super) async fn windows(State(app): State<Arc<App>>) -> Response {
    let mut out = Windows { period_ns: app.store.newest().map_or(0, |p| p.period_ns), ..Windows::default() };
    for window in app.store.windows() {
        out.from_ns.push(window.span.from_unix_ns.to_string());
        out.to_ns.push(window.span.to_unix_ns.to_string());
        out.samples.push(window.samples);
    }
    json(&out)
}

pub(super) async fn flame(State(app): State<Arc<App>>, Query(query): Query<RangeQuery>) -> Response {
    let wanted = || Ok((query.range(&app.store)?, query.filter.filter()?, query.grouping()?));
    let ((from, to), filter, grouping) = match wanted() {
        Ok(wanted) => wanted,
        Err(error) => return refuse(&error),
    };
    let (span, profiles) = app.store.range(from, to);
    let options = TreeOptions { grouping, filter, ..TreeOptions::default() };
    work(&app.builds, move || {
        let windows = profiles.len();
        let period_ns = profiles.last().map_or(0, |p| p.period_ns);
        let tree = tree::build(profiles.iter().map(AsRef::as_ref), options);
        let Span { from_unix_ns, to_unix_ns, .. } = span;
        let flame =
            Flame { from_ns: from_unix_ns.to_string(), to_ns: to_unix_ns.to_string(), windows, period_ns, tree };
        json(&flame)
    })
    .await
    .unwrap_or_else(IntoResponse::into_response)
}

pub(super) async fn pprof(State(app): State<Arc<App>>, Query(query): Query<RangeQuery>) -> Response {
    let (profiles, filter) = match range(&app, &query) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    match encode(&app, profiles, filter).await {
        Ok(bytes) => download("application/octet-stream", "profile.pb.gz", bytes),
        Err(status) => status.into_response(),
    }
}

pub(super) async fn folded(State(app): State<Arc<App>>, Query(query): Query<RangeQuery>) -> Response {
    let (profiles, filter) = match range(&app, &query) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let text = work(&app.builds, move || {
        let mut text = Vec::new();
        let profile = select(profiles.iter().map(AsRef::as_ref), &filter);
        folded::write(&profile, &mut text).map(|()| text)
    });
    match text.await {
        Ok(Ok(text)) => download("text/plain; charset=utf-8", "profile.folded", text),
        Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(status) => status.into_response(),
    }
}

/// The windows of a range, for a file. A file of nothing is an error: better no file than an empty one.
fn range(app: &App, query: &RangeQuery) -> Result<(Vec<Arc<Profile>>, Filter), Box<Response>> {
    let wanted = || Ok((query.range(&app.store)?, query.filter.filter()?));
    let ((from, to), filter) = wanted().map_err(|error: QueryError| Box::new(refuse(&error)))?;
    let (_, profiles) = app.store.range(from, to);
    if profiles.is_empty() {
        let text = "no window of that time is kept\n";
        return Err(Box::new((StatusCode::NOT_FOUND, text).into_response()));
    }
    Ok((profiles, filter))
}

/// Merges whole windows into one gzipped pprof file.
pub(super) async fn encode(app: &App, profiles: Vec<Arc<Profile>>, filter: Filter) -> Result<Vec<u8>, StatusCode> {
    let comment = app.settings.pprof_comment.clone();
    work(&app.builds, move || {
        let comments = if comment.is_empty() { Vec::new() } else { vec![comment] };
        pprof::encode(&select(profiles.iter().map(AsRef::as_ref), &filter), &pprof::PprofOptions { comments })
    })
    .await
}

/// A file for the browser to save.
pub(super) fn download(media_type: &'static str, name: &'static str, bytes: Vec<u8>) -> Response {
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
    let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], bytes).into_response();
    if let Ok(disposition) = disposition {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

fn refuse(error: &QueryError) -> Response {
    (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
