//! A profile as a flame graph: an interactive SVG, or an HTML page that holds it.
//!
//! **In**: names from targets, which may hold anything. **Out**: files that need nothing else; every name is escaped
//! by the drawing library, the page's title by us. **Limits**: frames narrower than
//! [`MIN_WIDTH_PERCENT`] are not drawn.

use std::io;

use inferno::flamegraph::color::{MultiPalette, Palette};
use inferno::flamegraph::{Options, from_lines};
use profile::Profile;

use crate::folded;
use crate::rfc3339::utc_millis;

/// The narrowest frame, in percent of all samples: a pixel on a wide screen. Finer ones make files that browsers
/// cannot handle.
pub const MIN_WIDTH_PERCENT: f64 = 0.05;

/// How a flame graph could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum FlamegraphError {
    /// The drawing library refused.
    #[error("cannot draw the flame graph: {0}")]
    Draw(#[from] io::Error),
}

/// Draws an SVG with zoom and search. Kernel frames are orange, C++ and Rust yellow, the rest red.
///
/// # Errors
/// Where the drawing library refuses.
pub fn svg(profile: &Profile, title: &str) -> Result<Vec<u8>, FlamegraphError> {
    let lines: Vec<String> =
        folded::lines(profile, true).iter().map(|(stack, count)| format!("{stack} {count}")).collect();
    let mut options = Options::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle(profile));
    options.colors = Palette::Multi(MultiPalette::Perl);
    options.deterministic = true;
    options.min_width = MIN_WIDTH_PERCENT;
    let mut out = Vec::new();
    if lines.is_empty() {
        // The library refuses to draw nothing; an idle machine is no error.
        from_lines(&mut options, ["(no samples) 1"], &mut out)?;
    } else {
        from_lines(&mut options, lines.iter().map(String::as_str), &mut out)?;
    }
    Ok(out)
}

fn subtitle(profile: &Profile) -> String {
    format!(
        "{} samples, {} to {}",
        profile.samples(),
        utc_millis(profile.span.from_unix_ns),
        utc_millis(profile.span.to_unix_ns)
    )
}

/// Draws a self-contained HTML page: the SVG stands in the document itself, since browsers refuse the search dialog to
/// documents inside others.
///
/// # Errors
/// Where the drawing library refuses.
pub fn html(profile: &Profile, title: &str) -> Result<Vec<u8>, FlamegraphError> {
    let drawn = svg(profile, title)?;
    let drawn = String::from_utf8_lossy(&drawn);
    // What comes before the root element belongs to files of their own.
    let drawing = drawn.find("<svg").and_then(|at| drawn.get(at..)).unwrap_or_default();
    let mut page = String::with_capacity(drawing.len() + 1024);
    page.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>");
    escape(&mut page, title);
    page.push_str("</title>\n<style>html,body{margin:0}svg{display:block;width:100%}</style>\n</head>\n<body>\n");
    page.push_str(drawing);
    page.push_str("</body>\n</html>\n");
    Ok(page.into_bytes())
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Builder, sample};

    fn utf8(bytes: Result<Vec<u8>, FlamegraphError>) -> String {
        String::from_utf8(bytes.unwrap()).unwrap()
    }

    #[test]
    fn every_process_and_frame_is_drawn() {
        let svg = utf8(svg(&sample(0), "app"));
        for want in ["<title>app (90 samples, 90.00%)</title>", "<title>work (80 samples, 80.00%)", "worker_thread (3"]
        {
            assert!(svg.contains(want), "{want}");
        }
        assert!(svg.contains("100 samples, 2026-11-22T14:00:00.000Z to 2026-11-22T14:00:05.000Z"));
        assert!(!svg.contains("_[k]"), "the mark is for colours only");
    }

    #[test]
    fn hostile_names_stay_text() {
        let evil = "<script>alert(1)</script>\"'&]]>";
        let p = Builder::window(0).owned(Builder::owner(1, "/bin/e", "e"), &[evil, "main"], 1).build();
        let svg = utf8(svg(&p, evil));
        assert!(!svg.contains("<script>alert") && svg.contains("&lt;script&gt;alert(1)"));
        let page = utf8(html(&p, evil));
        assert!(!page.contains("<script>alert") && page.contains("<title>&lt;script&gt;alert(1)"));
        assert_eq!(page.matches("<script").count(), 1, "the library's own");
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert!(utf8(svg(&Profile::default(), "idle")).contains("(no samples)"));
    }

    #[test]
    fn the_page_holds_the_drawing() {
        let p = sample(0);
        let (page, svg) = (utf8(html(&p, "t")), utf8(svg(&p, "t")));
        assert!(page.contains(&svg[svg.find("<svg").unwrap()..]));
        assert!(page.starts_with("<!DOCTYPE html>") && !page.contains("<?xml"));
    }
}
