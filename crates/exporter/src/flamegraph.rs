//! A profile as a flame graph: an interactive SVG, or an HTML page that holds it.
//!
//! **In**: names from targets, which may hold anything. **Out**: files that need nothing else; every name is escaped
//! by the drawing library (SVG), and the page holds the SVG as encoded data (HTML). **Limits**: frames narrower than
//! [`MIN_WIDTH_PERCENT`] are not drawn.

use std::fmt::Write as _;
use std::io;

use inferno::flamegraph::color::{MultiPalette, Palette};
use inferno::flamegraph::{Options, from_lines};
use profile::Profile;

use crate::folded;
use crate::rfc3339::utc_millis;

/// The narrowest frame, in percent of all samples: a tenth of a pixel on a wide screen.
pub const MIN_WIDTH_PERCENT: f64 = 0.005;

/// How a flame graph could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum FlamegraphError {
    /// The drawing library refused.
    #[error("cannot draw the flame graph: {0}")]
    Draw(#[from] io::Error),
}

/// Draws an SVG with zoom and search. Kernel frames have a colour of their own.
///
/// # Errors
/// Where the drawing library refuses.
pub fn svg(profile: &Profile, title: &str) -> Result<Vec<u8>, FlamegraphError> {
    let lines: Vec<String> =
        folded::lines(profile, true).iter().map(|(stack, count)| format!("{stack} {count}")).collect();
    let mut options = Options::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle(profile));
    options.colors = Palette::Multi(MultiPalette::Java);
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

/// Draws a self-contained HTML page: the SVG as a document of its own inside it, so that neither's script or style
/// reaches the other.
///
/// # Errors
/// Where the drawing library refuses.
pub fn html(profile: &Profile, title: &str) -> Result<Vec<u8>, FlamegraphError> {
    let svg = svg(profile, title)?;
    let mut page = String::with_capacity(svg.len() * 3 / 2 + 1024);
    page.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>");
    escape(&mut page, title);
    page.push_str(
        "</title>\n<style>html,body{margin:0;height:100%}object{display:block;width:100%;min-height:100%}</style>\n\
         </head>\n<body>\n<object type=\"image/svg+xml\" data=\"data:image/svg+xml;charset=utf-8,",
    );
    percent_encode(&mut page, &svg);
    page.push_str("\">");
    escape(&mut page, &subtitle(profile));
    page.push_str("</object>\n</body>\n</html>\n");
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

/// Everything but letters, digits and a few marks that mean nothing in URLs and attributes.
fn percent_encode(out: &mut String, bytes: &[u8]) {
    for &b in bytes {
        if b.is_ascii_alphanumeric() || b" -_.,:;=()/!*".contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
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
        assert_eq!(page.matches("<script").count(), 0, "the svg is encoded whole");
        assert_eq!(page.matches("<object").count(), 1);
        assert!(page.contains("<title>&lt;script&gt;"));
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert!(utf8(svg(&Profile::default(), "idle")).contains("(no samples)"));
    }

    #[test]
    fn the_page_holds_the_drawing() {
        let p = sample(0);
        let page = utf8(html(&p, "t"));
        let data = page.split("charset=utf-8,").nth(1).unwrap().split('"').next().unwrap();
        let mut bytes = Vec::new();
        let mut rest = data.as_bytes();
        while let Some((&b, tail)) = rest.split_first() {
            if b == b'%' {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                rest = &tail[2..];
            } else {
                bytes.push(b);
                rest = tail;
            }
        }
        assert_eq!(bytes, svg(&p, "t").unwrap());
    }
}
