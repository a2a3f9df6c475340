//! Point 4: what unwind tables cost, for large and usual files: each is compiled in a process of its own, built as the worker is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::line::Line;
use crate::load;
use crate::page::Part;

/// The program that compiles one file and says what that cost: an example of crate `unwind`.
const PROGRAM: &str = "E2E_TABLE_COST";
/// Each file is compiled so often; the quickest counts.
const TRIES: usize = 3;

/// Measures.
pub(crate) fn section() -> Result<Part> {
    let program =
        std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} is not set: run cargo xtask bench tables"))?;
    let mut part = Part::default();
    let text = &mut part.details;
    writeln!(
        text,
        "Compact tables as the kernel gets them (rows, their index and the rules). Extraction reads the file and takes its unwind \
         information out, compiling makes the table of that; the quickest of {TRIES}. Memory: the most that a process held meanwhile, \
         above what it holds before.\n"
    )?;
    writeln!(
        text,
        "| file | file MB | functions | rows | rules | table KB | bytes a row | extract ms | compile ms | parse ms | memory MB | rows not supported |"
    )?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for (name, path) in files()? {
        let Some(path) = path else {
            part.lines.push(Line::words("4", name, "not on this machine"));
            continue;
        };
        let cost = Cost::of(Path::new(&program), &path)?;
        let [rows, bytes, compile, memory] = ["rows", "bytes", "compile_ms", "peak_mb"].map(|key| cost.get(key));
        let (rows, bytes, compile, memory) = (rows?, bytes?, compile?, memory?);
        let per_row = bytes / rows.max(1.0);
        part.lines.push(Line::words(
            "4",
            format!("{name}: bytes a row; compile time; kernel memory; memory to compile"),
            format!("{per_row:.2}; {compile:.0} ms; {:.2} MB; {memory:.0} MB", bytes / 1e6),
        ));
        writeln!(
            part.details,
            "| {} | {:.1} | {:.0} | {rows:.0} | {:.0} | {:.0} | {per_row:.2} | {:.1} | {compile:.1} | {:.2} | {memory:.1} | {:.0} ({:.3} %) |",
            path.file_name().unwrap_or_default().to_string_lossy(),
            fs::metadata(&path)?.len() as f64 / 1e6,
            cost.get("functions")?,
            cost.get("rules")?,
            bytes / 1e3,
            cost.get("extract_ms")?,
            cost.get("parse_ms")?,
            cost.get("unsupported")?,
            100.0 * cost.get("unsupported")? / rows.max(1.0),
        )?;
    }
    Ok(part)
}

/// The files of the table, where they are on this machine.
fn files() -> Result<Vec<(&'static str, Option<PathBuf>)>> {
    let library = load::sysroot()?.join("lib");
    Ok(vec![
        ("libc", libc()?),
        ("python", fs::canonicalize("/usr/bin/python3").ok()),
        ("node", load::node().and_then(|path| fs::canonicalize(path).ok())),
        ("libLLVM", largest(&library, "libLLVM")?),
        ("librustc_driver", largest(&library, "librustc_driver")?),
    ])
}

/// The C library that this process runs with.
fn libc() -> Result<Option<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from);
    Ok(paths.into_iter().find(|path| path.file_name().is_some_and(|name| name == "libc.so.6")))
}

/// The largest file whose name begins like this: others are links and small stand-ins.
fn largest(folder: &Path, start: &str) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut all: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.path())))
        .collect();
    all.sort();
    Ok(all.pop().map(|(_, path)| path))
}

/// What the program says of a file, by name.
struct Cost(BTreeMap<String, f64>);

impl Cost {
    /// Of several tries, the quickest.
    fn of(program: &Path, file: &Path) -> Result<Self> {
        let tries: Vec<Self> = (0..TRIES).map(|_| Self::once(program, file)).collect::<Result<_>>()?;
        let time = |cost: &Self| cost.get("compile_ms").unwrap_or(f64::INFINITY);
        tries.into_iter().min_by(|a, b| time(a).total_cmp(&time(b))).context("no try")
    }

    fn once(program: &Path, file: &Path) -> Result<Self> {
        let done = Command::new(program).arg(file).output().with_context(|| program.display().to_string())?;
        let (said, failed) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        ensure!(done.status.success(), "{}: {}: {}", file.display(), done.status, failed.trim());
        Self::parse(&said).with_context(|| file.display().to_string())
    }

    fn parse(said: &str) -> Result<Self> {
        let pairs = said.split_whitespace().map(|word| {
            let (name, value) = word.split_once('=').with_context(|| format!("not NAME=VALUE: {word}"))?;
            Ok((name.to_owned(), value.parse()?))
        });
        Ok(Self(pairs.collect::<Result<_>>()?))
    }

    fn get(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().with_context(|| format!("the program does not say {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says() {
        let cost = Cost::parse("rows=12 compile_ms=1.5\n").unwrap();
        assert_eq!((cost.get("rows").unwrap(), cost.get("compile_ms").unwrap()), (12.0, 1.5));
        assert!(cost.get("bytes").is_err());
        assert!(Cost::parse("rows 12").is_err());
    }

    #[test]
    fn the_usual_c_library() {
        assert!(libc().unwrap().is_none_or(|path| path.is_file()));
    }
}
