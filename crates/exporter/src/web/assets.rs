//! The page's files, part of the binary: nothing is loaded from elsewhere.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const INDEX: &str = include_str!("../../assets/index.html");

/// Name, media type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("style.css", CSS, include_str!("../../assets/style.css")),
    ("icon.svg", SVG, include_str!("../../assets/icon.svg")),
    ("main.js", SCRIPT, include_str!("../../assets/main.js")),
    ("api.js", SCRIPT, include_str!("../../assets/api.js")),
    ("controls.js", SCRIPT, include_str!("../../assets/controls.js")),
    ("flame.js", SCRIPT, include_str!("../../assets/flame.js")),
    ("format.js", SCRIPT, include_str!("../../assets/format.js")),
    ("table.js", SCRIPT, include_str!("../../assets/table.js")),
    ("timeline.js", SCRIPT, include_str!("../../assets/timeline.js")),
    ("tree.js", SCRIPT, include_str!("../../assets/tree.js")),
];

pub(super) async fn index() -> Response {
    ([(header::CONTENT_TYPE, HTML)], INDEX).into_response()
}

pub(super) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == name) {
        Some(&(_, media_type, content)) => ([(header::CONTENT_TYPE, media_type)], content).into_response(),
        None => (StatusCode::NOT_FOUND, "There is no such file of the page.\n").into_response(),
    }
}
