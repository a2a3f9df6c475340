//! What is profiled: one kind of program on every CPU.
//!
//! **In**: programs of this machine, and sources that are made here, so that they are the same everywhere. **Out**: CPUs that are
//! busy until the [`Load`] is dropped. **Limits**: everything is stopped by its pid.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use e2e::paths;
use e2e::process::{Running, Start, tail};

use crate::cpus;

/// Longer than any benchmark.
const FOREVER: &str = "86400";
/// What the leaves of the C workload walk through so that caches are full of it.
const CACHE_KIB: &str = "65536";

const PYTHON: &str = "
import json
d = {str(i): [i, {'k': i}] for i in range(2000)}
def down(n):
    if n == 0:
        return len(json.loads(json.dumps(d)))
    return down(n - 1) + 1
while True:
    down(10)
";

const NODE: &str = "
const d = {};
for (let i = 0; i < 2000; i++) d[i] = [i, {k: i}];
function down(n) { return n === 0 ? JSON.stringify(JSON.parse(JSON.stringify(d))).length : down(n - 1) + 1; }
let sum = 0;
for (;;) sum += down(10);
";

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A C program without frame pointers, with stacks of so many user frames.
    Frames(u32),
    /// CPython.
    Python,
    /// Node.js.
    Node,
    /// rustc, again and again.
    Rustc,
    /// The C compiler proper, again and again.
    Gcc,
}

impl Kind {
    /// All kinds, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::Frames(11),
        Self::Frames(36),
        Self::Frames(50),
        Self::Frames(106),
        Self::Python,
        Self::Node,
        Self::Rustc,
        Self::Gcc,
    ];

    /// As the table calls it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Frames(frames) => format!("{frames} frames"),
            Self::Python => "python3".to_owned(),
            Self::Node => "node".to_owned(),
            Self::Rustc => "rustc".to_owned(),
            Self::Gcc => "gcc".to_owned(),
        }
    }

    /// Whether it can run on this machine.
    pub(crate) fn there(self) -> bool {
        self != Self::Node || node().is_some()
    }
}

/// Node.js, where it is installed.
pub(crate) fn node() -> Option<PathBuf> {
    ["/usr/bin/node", "/usr/local/bin/node"].map(PathBuf::from).into_iter().find(|p| p.is_file())
}

/// A load that runs on every CPU. Dropped, it ends.
pub(crate) struct Load {
    once: Vec<Running>,
    again: Vec<Again>,
}

impl Load {
    /// Starts it. `cold`: where the kind has a choice, it fills the caches.
    pub(crate) fn start(kind: Kind, cold: bool, folder: &Path) -> Result<Self> {
        let mut load = Self { once: Vec::new(), again: Vec::new() };
        for i in 0..cpus() {
            let name = format!("load-{}-{i}", kind.name().replace(' ', "-"));
            let start = |program: &Path| Start::new(&name, program, folder);
            match kind {
                Kind::Frames(frames) => {
                    let (frames, kib) = (frames.to_string(), if cold { CACHE_KIB } else { "0" });
                    load.once.push(start(&paths::workload("ladder")?).args([&frames, FOREVER, kib]).start()?);
                }
                Kind::Python => load.once.push(start(Path::new("/usr/bin/python3")).args(["-c", PYTHON]).start()?),
                Kind::Node => {
                    load.once.push(start(&node().context("no node")?).args(["-e", NODE]).start()?);
                }
                Kind::Rustc => load.again.push(Again::start(compiler_of_rust(i, folder)?, folder, &name)),
                Kind::Gcc => load.again.push(Again::start(compiler_of_c(i, folder)?, folder, &name)),
            }
        }
        Ok(load)
    }

    /// An error where it did not run all the time.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.once.iter_mut().try_for_each(Running::still_runs)?;
        self.again.iter().try_for_each(Again::check)
    }
}

/// The mixture of kinds that keeps all CPUs busy while the whole agent is measured.
pub(crate) fn mixture(folder: &Path) -> Result<Vec<Running>> {
    let truth = folder.join("rust.truth");
    let mut all = Vec::new();
    for i in 0..cpus() {
        let name = format!("load{i}");
        let start = match i % 3 {
            0 => Start::new(&name, paths::workload("deep")?, folder).args([FOREVER]),
            1 => Start::new(&name, "/usr/bin/python3", folder).args(["-c", PYTHON]),
            _ => Start::new(&name, paths::workload("split_rust")?, folder).args([&truth]).args(["50", FOREVER]),
        };
        all.push(start.start()?);
    }
    Ok(all)
}

/// A program and its words.
type Words = (PathBuf, Vec<String>);

/// Runs a program again and again.
struct Again {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Again {
    fn start((program, words): Words, folder: &Path, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, folder, name) = (Arc::clone(&stop), folder.to_owned(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut running = Start::new(&name, &program, &folder).args(&words).start()?;
                while !stopped.load(Ordering::Relaxed) {
                    if let Some(status) = running.ended()? {
                        ensure!(status.success(), "{name}: {status}: {}", tail(&running.errors()));
                        break;
                    }
                    sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        });
        Self { stop, thread: Some(thread) }
    }

    fn check(&self) -> Result<()> {
        match &self.thread {
            Some(thread) if !thread.is_finished() => Ok(()),
            _ => bail!("a load ended by itself"),
        }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(|thread| thread.join().map_err(|_| anyhow!("a load's thread panicked")));
        if let Some(Ok(Err(error)) | Err(error)) = ended {
            e2e::figure(format!("a load failed: {error:#}"));
        }
    }
}

fn said(command: &mut Command) -> Result<PathBuf> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", out.status);
    Ok(PathBuf::from(String::from_utf8(out.stdout)?.trim()))
}

/// Where the Rust toolchain is: not the wrapper that chooses one.
pub(crate) fn sysroot() -> Result<PathBuf> {
    said(Command::new("rustc").args(["--print", "sysroot"]))
}

fn compiler_of_rust(i: usize, folder: &Path) -> Result<Words> {
    let source = folder.join("load.rs");
    fs::write(&source, rust(150))?;
    let out = folder.join(format!("load{i}.o"));
    let words = ["--edition", "2024", "-O", "--crate-type", "lib", "--cap-lints", "allow", "-C", "codegen-units=1"];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.extend([format!("--emit=obj={}", out.display()), source.display().to_string()]);
    Ok((sysroot()?.join("bin/rustc"), words))
}

fn compiler_of_c(i: usize, folder: &Path) -> Result<Words> {
    let source = folder.join("load.c");
    fs::write(&source, c(1500))?;
    let out = folder.join(format!("load{i}.s"));
    let compiler = said(Command::new("gcc").arg("-print-prog-name=cc1"))?;
    let words = ["-O2", "-quiet"].map(str::to_owned).into_iter();
    Ok((compiler, words.chain([source.display().to_string(), "-o".to_owned(), out.display().to_string()]).collect()))
}

/// A Rust library of so many modules.
fn rust(modules: usize) -> String {
    let mut text = String::from("#![allow(unused)]\n");
    for i in 0..modules {
        let _ = write!(
            text,
            "pub mod m{i} {{
    use std::collections::BTreeMap;
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Shape {{ Point, Line(u{0}), Named {{ name: String, parts: Vec<u64> }} }}
    #[derive(Clone, Debug, Default)]
    pub struct Index {{ by_name: BTreeMap<String, Vec<Shape>>, total: u64 }}
    impl Index {{
        pub fn add(&mut self, name: &str, shape: Shape) -> u64 {{
            self.total += {i};
            self.by_name.entry(name.to_owned()).or_default().push(shape);
            self.by_name.values().flatten().map(|s| match s {{
                Shape::Point => 1,
                Shape::Line(n) => u64::from(*n),
                Shape::Named {{ parts, .. }} => parts.iter().filter(|p| **p % {1} == 0).sum(),
            }}).sum()
        }}
        pub fn show(&self) -> String {{
            let mut rows: Vec<_> = self.by_name.iter().map(|(k, v)| (v.len(), k)).collect();
            rows.sort_unstable();
            rows.iter().map(|(n, k)| format!(\"{{k}}={{n:>{2}}}\")).collect::<Vec<_>>().join(\",\")
        }}
    }}
}}
",
            if i % 2 == 0 { 16 } else { 32 },
            i % 13 + 2,
            i % 7 + 1,
        );
    }
    text
}

/// A C file of so many functions.
fn c(functions: usize) -> String {
    let mut text = String::from("struct node { struct node *next; unsigned long key, value; };\n");
    for i in 0..functions {
        let _ = write!(
            text,
            "unsigned long f{i}(struct node *n, unsigned long x) {{
    unsigned long sum = {i}, bits[8] = {{0}};
    for (; n; n = n->next) {{
        switch ((n->key ^ x) % 7) {{
        case 0: sum += n->value * {0}; break;
        case 1: sum ^= n->value << (x & 7); break;
        case 2: bits[n->key & 7] += sum; break;
        case 3: sum -= bits[n->value & 7] / (n->key | 1); break;
        default: for (int i = 0; i < {1}; i++) bits[i & 7] ^= sum >> i;
        }}
    }}
    for (int i = 0; i < 8; i++) sum += bits[i] * (i + {0});
    return sum;
}}
",
            i % 11 + 3,
            i % 29 + 4,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_compile() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for (program, words) in [compiler_of_rust(0, folder.path())?, compiler_of_c(0, folder.path())?] {
            fs::write(folder.path().join("load.rs"), rust(2))?;
            fs::write(folder.path().join("load.c"), c(2))?;
            let status = Command::new(&program).args(&words).current_dir(folder.path()).status()?;
            ensure!(status.success(), "{}: {status}", program.display());
        }
        Ok(())
    }
}
