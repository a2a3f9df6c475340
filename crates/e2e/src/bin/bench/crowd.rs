//! Many processes, as a machine has them: different programs with different libraries, most of the time asleep.

use std::path::{Path, PathBuf};

use anyhow::Result;
use e2e::process::{Running, Start};

use crate::load::node;

/// Each does a little work once a second, so that it is sampled now and then.
const PYTHON: &str = "
import time, MODULES
while True:
    sum(i * i for i in range(3000))
    time.sleep(1)
";
const MODULES: [&str; 8] = [
    "json",
    "ssl",
    "sqlite3",
    "ctypes",
    "lzma, bz2",
    "curses",
    "decimal, zlib",
    "asyncio, hashlib, xml.etree.ElementTree",
];
const PERL: &str = "while (1) { my $s = 0; $s += $_ * $_ for 1 .. 3000; sleep 1; }";
const NODE: &str =
    "setInterval(() => { let s = 0; for (let i = 0; i < 30000; i++) s += Math.sqrt(i); return s; }, 1000)";
const SHELL: &str = "while :; do i=0; while [ $i -lt 300 ]; do i=$((i + 1)); done; sleep 1; done";

/// Starts so many.
pub(crate) fn mixed(count: usize, folder: &Path) -> Result<Vec<Running>> {
    (0..count).map(|i| one(i, folder)).collect()
}

/// Starts so many that only sleep: for numbers of processes that a small machine could not run otherwise.
pub(crate) fn asleep(count: usize, folder: &Path) -> Result<Vec<Running>> {
    (0..count).map(|i| Start::new("asleep", "/bin/sleep", folder).args([format!("{}", 80_000 + i)]).start()).collect()
}

fn one(i: usize, folder: &Path) -> Result<Running> {
    let perl = PathBuf::from("/usr/bin/perl");
    let start = |program: &Path| Start::new(&format!("crowd{}", i % 10), program, folder);
    match i % 10 {
        0 => match node() {
            Some(node) => start(&node).args(["-e", NODE]).start(),
            None => start(Path::new("/bin/sleep")).args(["86400"]).start(),
        },
        1 | 2 if perl.is_file() => start(&perl).args(["-e", PERL]).start(),
        3 => start(Path::new("/bin/sh")).args(["-c", SHELL]).start(),
        4 => start(Path::new("/usr/bin/tail")).args(["-f", "/dev/null"]).start(),
        5 => start(Path::new("/bin/sleep")).args(["86400"]).start(),
        _ => {
            let program = PYTHON.replace("MODULES", MODULES[i / 10 % MODULES.len()]);
            start(Path::new("/usr/bin/python3")).args(["-c", &program]).start()
        }
    }
}
