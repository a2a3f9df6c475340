//! The images of the cluster, as archives that containerd imports: the servers that `deploy/` names, the workloads, the
//! container that holds a pod. The profiler's own is built from its Dockerfile by [`crate::image`].
//!
//! An image here is a few files of this machine: programs with the libraries that they are linked to. Workloads are
//! compiled only to be put in their image, so that their files exist nowhere else.
//!
//! **Out**: archives in the format of `docker save`. **Limits**: one layer each, made anew each time.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::programs::Programs;
use crate::shell::{logged, output, repository};
use crate::{image, peers};

/// The archives of all images.
#[derive(Debug)]
pub(super) struct Images {
    archives: Vec<PathBuf>,
}

/// An image to make.
struct Image {
    /// Its name with tag.
    name: &'static str,
    /// What it runs.
    entry: Vec<&'static str>,
    /// Words that a pod's `args` take the place of.
    words: Vec<&'static str>,
    /// Who it runs as.
    user: &'static str,
    /// Files, and where they are in the image.
    files: Vec<(PathBuf, String)>,
    /// Empty folders, and whose they are.
    folders: Vec<(&'static str, u64)>,
}

impl Image {
    fn new(name: &'static str, entry: &[&'static str]) -> Self {
        let folders = vec![("tmp", 0)];
        Self { name, entry: entry.to_vec(), words: Vec::new(), user: "", files: Vec::new(), folders }
    }

    /// A program with the libraries that it is linked to.
    fn program(mut self, from: &Path, to: &str) -> Result<Self> {
        for library in libraries(from)? {
            let place = library.to_string_lossy().trim_start_matches('/').to_owned();
            if self.files.iter().all(|(_, other)| *other != place) {
                self.files.push((library, place));
            }
        }
        self.files.push((from.to_owned(), to.to_owned()));
        Ok(self)
    }
}

impl Images {
    /// Makes all of them in `folder`.
    ///
    /// # Errors
    /// When a program of theirs is not there or cannot be compiled.
    pub(super) fn make(folder: &Path, programs: &Programs) -> Result<Self> {
        let to = folder.join("images");
        fs::create_dir_all(&to)?;
        let build = tempfile::Builder::new().prefix("build-").tempdir_in(folder)?;
        let log = folder.join("logs/images.log");
        let _ = fs::remove_file(&log);
        let mut images = servers(programs)?;
        images.extend(workloads(build.path(), &log)?);
        let mut archives = vec![image::ensure()?];
        for image in &images {
            let file = to.join(format!("{}.tar", image.name.replace(['/', ':'], "_")));
            archive(image, &file).with_context(|| image.name.to_owned())?;
            archives.push(file);
        }
        Ok(Self { archives })
    }

    /// The archives.
    pub(super) fn archives(&self) -> &[PathBuf] {
        &self.archives
    }
}

/// The servers of the overlays, with the entry points of the images that they stand for.
fn servers(programs: &Programs) -> Result<Vec<Image>> {
    let peers = peers::ensure()?;
    let peer = |name: &str| {
        let found = peers.iter().find(|(_, path)| path.file_name().is_some_and(|n| n == name));
        found.map(|(_, path)| path.clone()).with_context(|| format!("no peer {name}"))
    };
    let collector = Image {
        words: vec!["--config", "/etc/otelcol-contrib/config.yaml"],
        user: "10001",
        ..Image::new("localhost/collector:tests", &["/otelcol-contrib"])
    };
    let pyroscope = Image {
        user: "10001",
        folders: vec![("tmp", 0), ("data", 10001), ("data-compactor", 10001)],
        ..Image::new("localhost/pyroscope:tests", &["/usr/bin/pyroscope"])
    };
    let prometheus = Image {
        words: vec!["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"],
        user: "65534",
        folders: vec![("tmp", 0), ("prometheus", 65534)],
        ..Image::new("localhost/prometheus:tests", &["/bin/prometheus"])
    };
    Ok(vec![
        collector.program(&peer("otelcol-profiles")?, "otelcol-contrib")?,
        pyroscope.program(&peer("pyroscope")?, "usr/bin/pyroscope")?,
        prometheus.program(programs.path("prometheus")?, "bin/prometheus")?,
    ])
}

/// What pods run in tests. Names of functions tell which file they came from.
fn workloads(build: &Path, log: &Path) -> Result<Vec<Image>> {
    let sources = repository().join("tests/workloads");
    let compiled = |name: &str, words: &[&str]| {
        let [compiler, rest @ ..] = words else { anyhow::bail!("no compiler for {name}") };
        let to = build.join(name);
        let mut command = Command::new(compiler);
        command.args(rest).arg("-o").arg(&to).current_dir(&sources).env("CGO_ENABLED", "0").env("GOWORK", "off");
        if *compiler == "go" {
            command.arg("go/split.go");
        }
        logged(&mut command, log)?;
        Ok(to)
    };
    let pause = repository().join("tests/kubernetes/pause.c");
    let pause = compiled("pause", &["cc", "-O2", "-static", "-s", &pause.to_string_lossy()])?;
    let shop = compiled("shop", &["c++", "-O2", "-Wall", "cluster/shop.cpp"])?;
    let stock = compiled("stock", &["go", "build", "-trimpath"])?;
    let named = compiled("named", &["cc", "-O2", "-Wall", "cluster/named.c"])?;
    let first = compiled("first", &["cc", "-O2", "-Wall", "-DNAME=burn_of_first", "cluster/same.c"])?;
    let second = compiled("second", &["cc", "-O2", "-Wall", "-DNAME=burn_of_second", "cluster/same.c"])?;
    Ok(vec![
        Image::new("localhost/pause:1", &["/pause"]).program(&pause, "pause")?,
        Image::new("localhost/shop:tests", &["/usr/bin/shop"]).program(&shop, "usr/bin/shop")?,
        Image::new("localhost/stock:tests", &["/usr/bin/stock"]).program(&stock, "usr/bin/stock")?,
        Image::new("localhost/named:tests", &["/usr/bin/named"]).program(&named, "usr/bin/named")?,
        Image::new("localhost/first:tests", &["/opt/same/app"]).program(&first, "opt/same/app")?,
        Image::new("localhost/second:tests", &["/opt/same/app"]).program(&second, "opt/same/app")?,
    ])
}

/// The files that the dynamic linker loads for a program; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let Ok(text) = output(Command::new("ldd").arg(program)) else { return Ok(Vec::new()) };
    let path = |line: &str| {
        let words = line.split_once(" => ").map_or(line, |(_, path)| path);
        Some(PathBuf::from(words.trim().split_once(" (")?.0)).filter(|p| p.is_absolute())
    };
    Ok(text.lines().filter_map(path).collect())
}

/// Writes the archive of one image.
fn archive(image: &Image, to: &Path) -> Result<()> {
    let layer = layer(image)?;
    let digest = hex(&Sha256::digest(&layer));
    let configuration = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": image.entry,
            "Cmd": image.words,
            "User": image.user,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let configuration = serde_json::to_vec(&configuration)?;
    let name = format!("{}.json", hex(&Sha256::digest(&configuration)));
    let manifest = json!([{ "Config": name, "RepoTags": [image.name], "Layers": ["layer.tar"] }]);
    let mut out = Builder::new(File::create(to)?);
    add(&mut out, EntryType::Regular, &name, 0o644, 0, &configuration)?;
    add(&mut out, EntryType::Regular, "layer.tar", 0o644, 0, &layer)?;
    add(&mut out, EntryType::Regular, "manifest.json", 0o644, 0, &serde_json::to_vec(&manifest)?)?;
    Ok(out.into_inner()?.flush()?)
}

fn layer(image: &Image) -> Result<Vec<u8>> {
    let mut out = Builder::new(Vec::new());
    for (folder, user) in &image.folders {
        let mode = if *folder == "tmp" { 0o1777 } else { 0o755 };
        add(&mut out, EntryType::Directory, &format!("{folder}/"), mode, *user, &[])?;
    }
    let mut made: Vec<PathBuf> = Vec::new();
    for (from, place) in &image.files {
        let above: Vec<&Path> = Path::new(place).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        for folder in above.into_iter().rev() {
            if !made.iter().any(|m| m == folder) {
                add(&mut out, EntryType::Directory, &format!("{}/", folder.display()), 0o755, 0, &[])?;
                made.push(folder.to_owned());
            }
        }
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        add(&mut out, EntryType::Regular, place, 0o755, 0, &content)?;
    }
    Ok(out.into_inner()?)
}

fn add<W: std::io::Write>(
    out: &mut Builder<W>,
    kind: EntryType,
    name: &str,
    mode: u32,
    user: u64,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(user);
    header.set_gid(user);
    header.set_mtime(0);
    header.set_size(u64::try_from(content.len())?);
    Ok(out.append_data(&mut header, name, content)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
