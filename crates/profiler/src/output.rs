//! The file that `record` writes: decided, and proven writable, before the first sample.
//!
//! **In**: a path; later the file's bytes. **Out**: the file, whole or not at all: it is written under another name in
//! the same directory and renamed.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tempfile::{Builder, NamedTempFile};

/// What a file holds, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// pprof, gzip-compressed.
    Pprof,
    /// One stack a line, as flame graph tools read it.
    Folded,
    /// A flame graph as a picture.
    Svg,
    /// A flame graph as a page that needs no server.
    Html,
}

impl Format {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        for (end, format) in
            [(".pb.gz", Self::Pprof), (".folded", Self::Folded), (".svg", Self::Svg), (".html", Self::Html)]
        {
            if name.len() > end.len() && name.ends_with(end) {
                return Ok(format);
            }
        }
        bail!("--output {}: the name must end in .pb.gz (pprof), .folded, .svg or .html", path.display())
    }
}

/// A file that can be written.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    format: Format,
}

impl Output {
    /// Makes the file's place sure.
    ///
    /// # Errors
    /// An unknown ending, or a place that can not be written.
    pub(crate) fn prepare(path: &Path) -> anyhow::Result<Self> {
        let format = Format::of(path)?;
        if let Ok(found) = std::fs::metadata(path) {
            ensure!(found.is_file(), "--output {}: exists and is not a file", path.display());
        }
        // Made and taken away again: nothing lies about while a recording runs, however it ends.
        temporary(path)?;
        Ok(Self { path: path.to_owned(), format })
    }

    /// What the file will hold.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Where it will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The disk is full, or the directory went away. Nothing half written remains.
    pub(crate) fn write(self, bytes: &[u8]) -> anyhow::Result<()> {
        let what = || format!("cannot write {}", self.path.display());
        let mut file = temporary(&self.path)?;
        file.write_all(bytes).with_context(what)?;
        file.as_file().sync_all().with_context(what)?;
        file.persist(&self.path).map_err(|e| e.error).with_context(what)?;
        Ok(())
    }
}

/// A new file beside `path`, which goes away again unless it is given that name.
fn temporary(path: &Path) -> anyhow::Result<NamedTempFile> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Builder::new()
        .prefix(".profiler-")
        .suffix(".tmp")
        // As any other program's file: the umask decides.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .with_context(|| format!("--output {}: the directory cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        for (name, want) in [
            ("a.pb.gz", Some(Format::Pprof)),
            ("a.b.folded", Some(Format::Folded)),
            ("x/a.svg", Some(Format::Svg)),
            ("a.html", Some(Format::Html)),
            ("a.gz", None),
            (".svg", None),
            ("a", None),
        ] {
            assert_eq!(Format::of(Path::new(name)).ok(), want, "{name}");
        }
    }

    #[test]
    fn all_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let mut n: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            n.sort();
            n
        };
        let path = dir.path().join("p.folded");
        let output = Output::prepare(&path).unwrap();
        assert!(names().is_empty(), "nothing lies about while it is recorded");
        output.write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(), ["p.folded"]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_ne!(mode & 0o400, 0);
    }

    #[test]
    fn places_that_can_not_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{:#}", Output::prepare(&dir.path().join("no/such/p.svg")).unwrap_err());
        assert!(text.contains("cannot be written") && text.contains("p.svg"), "{text}");
        let sub = dir.path().join("d.svg");
        std::fs::create_dir(&sub).unwrap();
        assert!(Output::prepare(&sub).unwrap_err().to_string().contains("not a file"));
    }
}
