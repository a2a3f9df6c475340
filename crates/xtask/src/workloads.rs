//! The programs that end-to-end tests profile, built from `tests/workloads` into `target/workloads`.
//!
//! **In**: the sources. **Out**: one executable each. A workload is built anew when a source, a flag or the recipe
//! changed, else left alone.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::{logged, output, repository, target};

/// A workload: what it is called, and the words that build it. `{}` stands for the folder that it goes to.
struct Recipe {
    name: &'static str,
    words: &'static [&'static str],
}

const fn recipe(name: &'static str, words: &'static [&'static str]) -> Recipe {
    Recipe { name, words }
}

/// In order: the library comes before the executables that share it.
const RECIPES: &[Recipe] = &[
    recipe("split", &["cc", "-O2", "-Wall", "c/split.c", "-o", "{}/split"]),
    recipe(
        "deep",
        // Functions of libraries are bound when it starts: at a first call the dynamic linker's frame counts from another register,
        // and no stack is followed through that.
        &[
            "cc",
            "-O2",
            "-fomit-frame-pointer",
            "-fno-optimize-sibling-calls",
            "-Wl,-z,now",
            "-Wall",
            "c/deep.c",
            "-o",
            "{}/deep",
        ],
    ),
    recipe(
        "ladder",
        &["cc", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-Wall", "c/ladder.c", "-o", "{}/ladder"],
    ),
    recipe(
        "libprofiled.so",
        &["cc", "-O2", "-fPIC", "-shared", "-fomit-frame-pointer", "-Wall", "c/shared.c", "-o", "{}/libprofiled.so"],
    ),
    recipe(
        "shared_one",
        &[
            "cc",
            "-O2",
            "-Wall",
            "-DCALLER=call_one",
            "c/shared_user.c",
            "-o",
            "{}/shared_one",
            "-L{}",
            "-lprofiled",
            "-Wl,-rpath,$ORIGIN",
        ],
    ),
    recipe(
        "shared_two",
        &[
            "cc",
            "-O2",
            "-Wall",
            "-DCALLER=call_two",
            "c/shared_user.c",
            "-o",
            "{}/shared_two",
            "-L{}",
            "-lprofiled",
            "-Wl,-rpath,$ORIGIN",
        ],
    ),
    recipe("threads", &["cc", "-O2", "-pthread", "-Wall", "c/threads.c", "-o", "{}/threads"]),
    recipe("burn50", &["cc", "-O2", "-Wall", "c/burn50.c", "-o", "{}/burn50"]),
    recipe("syscalls", &["cc", "-O2", "-fomit-frame-pointer", "-Wall", "c/syscalls.c", "-o", "{}/syscalls"]),
    recipe("runmapped", &["cc", "-O2", "-Wall", "c/runmapped.c", "-o", "{}/runmapped"]),
    recipe("family", &["cc", "-O2", "-Wall", "c/family.c", "-o", "{}/family"]),
    recipe("names", &["c++", "-O2", "-Wall", "cpp/names.cpp", "-o", "{}/names"]),
    recipe(
        "split_rust",
        &[
            "rustc",
            "--edition",
            "2024",
            "-O",
            "-C",
            "symbol-mangling-version=v0",
            "rust/split.rs",
            "-o",
            "{}/split_rust",
        ],
    ),
    recipe("split_go", &["go", "build", "-trimpath", "-o", "{}/split_go", "go/split.go"]),
    recipe("busy_go", &["go", "build", "-trimpath", "-o", "{}/busy_go", "go/busy.go"]),
    recipe("vdso", &["cc", "-O2", "-fomit-frame-pointer", "-Wall", "c/vdso.c", "-o", "{}/vdso"]),
    recipe(
        "deep_static",
        &["cc", "-static-pie", "-O2", "-fno-optimize-sibling-calls", "c/deep.c", "-o", "{}/deep_static"],
    ),
    recipe(
        "deep_musl",
        &["musl-gcc", "-static", "-O2", "-fno-optimize-sibling-calls", "c/deep.c", "-o", "{}/deep_musl"],
    ),
    recipe("thrower", &["c++", "-O2", "-fomit-frame-pointer", "-Wall", "cpp/thrower.cpp", "-o", "{}/thrower"]),
    recipe("jit", &["cc", "-O2", "-fomit-frame-pointer", "-Wall", "c/jit.c", "-o", "{}/jit"]),
    recipe("liar", &["cc", "-O2", "-Wall", "c/liar.c", "-o", "{}/liar"]),
    recipe(
        "libleft.so",
        &["cc", "-DSIDE=left", "-DWORDS=8", "-O2", "-fPIC", "-shared", "c/plugin.c", "-o", "{}/libleft.so"],
    ),
    recipe(
        "libright.so",
        &["cc", "-DSIDE=right", "-DWORDS=72", "-O2", "-fPIC", "-shared", "c/plugin.c", "-o", "{}/libright.so"],
    ),
    recipe("plugins", &["cc", "-O2", "-Wall", "c/plugins.c", "-o", "{}/plugins"]),
    recipe(
        "execs_left",
        &["cc", "-DSIDE=left", "-DWORDS=8", "-O2", "-no-pie", "-Wall", "c/execs.c", "-o", "{}/execs_left"],
    ),
    recipe(
        "execs_right",
        &["cc", "-DSIDE=right", "-DWORDS=72", "-O2", "-no-pie", "-Wall", "c/execs.c", "-o", "{}/execs_right"],
    ),
    #[cfg(target_arch = "x86_64")]
    recipe(
        "bits32",
        &[
            "cc",
            "-m32",
            "-O2",
            "-fno-pie",
            "-no-pie",
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "c/bits32.c",
            "-o",
            "{}/bits32",
        ],
    ),
];

/// Where the workloads are.
pub(crate) fn folder() -> PathBuf {
    target().join("workloads")
}

/// Builds what is not there or not of today's sources.
///
/// # Errors
/// When a compiler is missing or fails: names the log.
pub(crate) fn build() -> Result<()> {
    let out = folder();
    fs::create_dir_all(&out)?;
    let sources = repository().join("tests/workloads");
    let content = digest_of(&sources)?;
    for recipe in RECIPES {
        let mut hash = DefaultHasher::new();
        (content, recipe.words, compiler(recipe.words[0])).hash(&mut hash);
        let stamp = format!("{:016x}", hash.finish());
        let stamp_file = out.join(format!(".{}.stamp", recipe.name));
        if out.join(recipe.name).exists() && fs::read_to_string(&stamp_file).is_ok_and(|s| s == stamp) {
            continue;
        }
        let text = out.to_string_lossy();
        let mut command = Command::new(recipe.words[0]);
        command.args(recipe.words[1..].iter().map(|w| w.replace("{}", &text))).current_dir(&sources);
        command.env("CGO_ENABLED", "0").env("GOWORK", "off");
        let log = out.join(format!("{}.log", recipe.name));
        let _ = fs::remove_file(&log);
        logged(&mut command, &log).with_context(|| format!("workload {}", recipe.name))?;
        fs::write(stamp_file, stamp)?;
    }
    Ok(())
}

/// What a compiler says of its version, so that another one builds anew.
fn compiler(program: &str) -> String {
    let word = if program == "go" { "version" } else { "--version" };
    output(Command::new(program).arg(word)).unwrap_or_default()
}

/// A number that changes with any source's name or content.
fn digest_of(folder: &Path) -> Result<u64> {
    let mut hash = DefaultHasher::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&next)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        entries.sort();
        for path in entries {
            path.hash(&mut hash);
            if path.is_dir() {
                open.push(path);
            } else {
                fs::read(&path)?.hash(&mut hash);
            }
        }
    }
    Ok(hash.finish())
}
