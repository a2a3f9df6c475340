//! References of images.

/// A reference of an image, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image<'a> {
    /// Registry and name; empty where the reference is only an id.
    pub(crate) name: &'a str,
    /// The tag; empty if none is there.
    pub(crate) tag: &'a str,
}

impl<'a> Image<'a> {
    /// Of `registry:5000/name:tag@sha256:digest`, each part but the name optional.
    pub(crate) fn of(reference: &'a str) -> Self {
        let reference = reference.trim();
        // Some runtimes put "sha256:…" or the bare digest where a name is not known.
        if reference.starts_with("sha256:") || is_digest(reference) {
            return Self::default();
        }
        let name = reference.split('@').next().unwrap_or_default();
        // A colon before the last slash belongs to the registry's port.
        match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => Self { name, tag },
            _ => Self { name, tag: "" },
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = "0a554e80a3156f2cc825d1720f303d59bd521da19bcbd01316870e1313ecbd23";
        for (reference, name, tag) in [
            ("nginx", "nginx", ""),
            ("nginx:1.27", "nginx", "1.27"),
            ("registry.example:5000/shop/web", "registry.example:5000/shop/web", ""),
            ("registry.example:5000/shop/web:v2", "registry.example:5000/shop/web", "v2"),
            (&format!("web:v2@sha256:{digest}"), "web", "v2"),
            (&format!("registry.example/web@sha256:{digest}"), "registry.example/web", ""),
            (&format!("sha256:{digest}"), "", ""),
            (digest, "", ""),
            ("", "", ""),
            (":", "", ""),
            ("@", "", ""),
        ] {
            assert_eq!(Image::of(reference), Image { name, tag }, "{reference}");
        }
    }
}
