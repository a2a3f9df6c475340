//! Tables of real files, against other people's readers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use symbolizer::table::{Limits, extract, lookup, rows};

fn compile(compiler: &str, source: &str, flags: &[&str], dir: &Path) -> PathBuf {
    let (from, to) = (dir.join(if compiler == "g++" { "a.cc" } else { "a.c" }), dir.join("a.out"));
    fs::write(&from, source).unwrap();
    let made = Command::new(compiler).args(flags).arg("-o").arg(&to).arg(&from).status().unwrap();
    assert!(made.success());
    to
}

const SOURCE: &str = r#"
#include <string.h>
#include <stdlib.h>
__attribute__((noinline)) int plain(int n) { return n * 3; }
__attribute__((noinline)) static int hidden(int n) { return plain(n) + 1; }
int other_name(int) __attribute__((alias("plain")));
int __plain(int) __attribute__((alias("plain")));
__asm__(".globl in_assembly\n.text\nin_assembly: nop\nnop\nnop\nret\nsecond: nop\nret\n");
int main(int argc, char **argv) { char *copy = malloc(9); memcpy(copy, argv[0], argc); return hidden(copy[0]); }
"#;

fn table(path: &Path) -> Vec<u8> {
    extract(fs::read(path).unwrap().as_slice(), &Limits::default()).unwrap()
}

fn name(table: &[u8], address: u64) -> Option<String> {
    lookup(table, address).map(|s| String::from_utf8_lossy(s.name).into_owned())
}

/// Name, address and size by `nm`.
fn nm(path: &Path, flags: &[&str]) -> Vec<(u64, u64, char, String)> {
    let out = Command::new("nm").args(["-S", "--defined-only"]).args(flags).arg(path).output().unwrap();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        match words.as_slice() {
            [address, size, kind, name] => Some((hex(address)?, hex(size)?, kind.chars().next()?, (*name).to_owned())),
            [address, kind, name] => Some((hex(address)?, 0, kind.chars().next()?, (*name).to_owned())),
            _ => None,
        }
    };
    String::from_utf8_lossy(&out.stdout).lines().filter_map(parse).collect()
}

#[test]
fn aliases_assembly_and_linkage() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [
        vec!["-O1"],
        vec!["-O1", "-static"],
        vec!["-O1", "-Wl,-z,now"],
        vec!["-O1", "-fcf-protection", "-Wl,-z,ibtplt"],
    ] {
        let path = compile("cc", SOURCE, &flags, dir.path());
        let table = table(&path);
        let at = |want: &str| nm(&path, &[]).into_iter().find(|s| s.3 == want).unwrap_or_else(|| panic!("no {want}"));
        // Three names of one function: no underscores, then the shorter.
        let plain = at("plain");
        assert_eq!(name(&table, plain.0).as_deref(), Some("plain"), "{flags:?}");
        assert_eq!(name(&table, plain.0 + plain.1 - 1).as_deref(), Some("plain"));
        assert_eq!(name(&table, at("hidden").0 + 1).as_deref(), Some("hidden"));
        assert_eq!(name(&table, at("in_assembly").0 + 3).as_deref(), Some("in_assembly"));
        assert_eq!(name(&table, at("second").0 + 1).as_deref(), Some("second"));
        assert_eq!(name(&table, at("main").0).as_deref(), Some("main"));
        assert_eq!(name(&table, at("_start").0).as_deref(), Some("_start"));
        assert_eq!(name(&table, 0), None);
        assert_eq!(name(&table, u64::MAX), None);
        if !flags.contains(&"-static") {
            let linkage = name_set(&table);
            assert!(linkage.contains("malloc@plt"), "{flags:?}: {linkage:?}");
        }
    }
}

fn name_set(table: &[u8]) -> std::collections::BTreeSet<String> {
    (0..0x20000u64).filter_map(|a| name(table, a).or_else(|| name(table, 0x40_0000 + a))).collect()
}

#[test]
fn a_stripped_file_keeps_what_it_exports() {
    let dir = tempfile::tempdir().unwrap();
    let path = compile("cc", SOURCE, &["-O1", "-s", "-rdynamic"], dir.path());
    let table = table(&path);
    let exported = nm(&path, &["-D"]);
    let main = exported.iter().find(|s| s.3 == "main").unwrap();
    assert_eq!(name(&table, main.0).as_deref(), Some("main"));
    assert!(!name_set(&table).contains("hidden"));
}

/// A million symbols that share one name without an end cost no more than the budget.
#[test]
fn one_endless_name() {
    let symbols = 1_000_000usize;
    let mut file = fs::read(std::env::current_exe().unwrap()).unwrap()[..64].to_vec();
    let (table, names) = (64usize, 64 + symbols * 24);
    let sections = names + (1 << 20);
    file[0x28..0x30].copy_from_slice(&(sections as u64).to_le_bytes());
    file[0x38..0x3a].copy_from_slice(&0u16.to_le_bytes());
    file[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
    file[0x3e..0x40].copy_from_slice(&2u16.to_le_bytes());
    for i in 0..symbols as u64 {
        for word in [1 | 0x12 << 32 | 1 << 48, 0x1000 + i, 1] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file.resize(sections, b'x');
    for (kind, link, at, size) in [(1u64, 0u64, 0, symbols * 8), (2, 2, table, symbols * 24), (3, 0, names, 1 << 20)] {
        // Executable, from 0x1000.
        for word in [kind << 32, 6, 0x1000, at as u64, size as u64, link, 8, 24] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    let start = std::time::Instant::now();
    let table = extract(file.as_slice(), &Limits::default()).unwrap();
    assert!(table.len() <= Limits::default().name_bytes + (64 << 20));
    assert!(rows(&table) > 0, "the file is what it should be");
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

/// A stripped Go program names its functions as the same program does that was not stripped.
#[test]
fn a_stripped_go_program() {
    let dir = tempfile::tempdir().unwrap();
    let source = "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\n//go:noinline\nfunc work(n int) int { return n * len(os.Args) }\n\n\
                  func main() { fmt.Println(work(3)) }\n";
    fs::write(dir.path().join("main.go"), source).unwrap();
    for more in [vec![], vec!["-buildmode=pie"]] {
        let build = |out: &str, flags: &str| {
            let mut command = Command::new("go");
            command.args(["build", "-ldflags", flags]).args(&more).args(["-o", out, "main.go"]);
            command.current_dir(dir.path()).env("CGO_ENABLED", "0").env("GO111MODULE", "off");
            command.status().is_ok_and(|s| s.success())
        };
        if !build("whole", "") || !build("stripped", "-s -w") {
            return;
        }
        let (whole, stripped) = (table(&dir.path().join("whole")), table(&dir.path().join("stripped")));
        // The two have the same code at the same addresses.
        let (mut same, mut different) = (0, Vec::new());
        for symbol in nm(&dir.path().join("whole"), &[]).iter().filter(|s| matches!(s.2, 'T' | 't')) {
            let (a, b) = (name(&whole, symbol.0), name(&stripped, symbol.0));
            // Functions of the assembler have their calling convention behind their name.
            if a.as_deref().map(|a| a.trim_end_matches(".abi0")) == b.as_deref().map(|b| b.trim_end_matches(".abi0")) {
                same += 1;
            } else {
                different.push((a, b));
            }
        }
        println!("{more:?}: {same} same, {} different", different.len());
        assert!(same > 1000, "{more:?}: {same}, {:?}", &different[..different.len().min(8)]);
        assert!(
            different.len() * 50 < same,
            "{more:?}: {same} of {}: {:?}",
            different.len(),
            &different[..different.len().min(8)]
        );
        assert!(rows(&stripped) > 1000);
    }
}

/// Files that most machines have, and this very test.
fn files() -> Vec<PathBuf> {
    let mut files = vec![std::env::current_exe().unwrap()];
    for path in [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/bin/python3",
        "/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/local/go/bin/go",
    ] {
        files.extend(fs::canonicalize(path));
    }
    files
}

#[test]
fn every_function_that_nm_knows() {
    for path in files() {
        let table = table(&path);
        let symbols = match nm(&path, &[]) {
            symbols if symbols.is_empty() => nm(&path, &["-D"]),
            symbols => symbols,
        };
        // Names by address, for aliases.
        let mut names: BTreeMap<u64, Vec<(u64, String)>> = BTreeMap::new();
        for (address, size, kind, name) in symbols {
            if matches!(kind, 'T' | 't' | 'W' | 'i') && size > 0 {
                let name = name.split('@').next().unwrap_or_default().to_owned();
                names.entry(address).or_default().push((size, name));
            }
        }
        let (mut checked, mut wrong) = (0usize, Vec::new());
        for (address, aliases) in &names {
            let found = name(&table, *address).map(|n| n.split('@').next().unwrap_or_default().to_owned());
            checked += 1;
            if !aliases.iter().any(|(_, name)| Some(name) == found.as_ref()) {
                wrong.push((*address, aliases.clone(), found));
            }
        }
        println!("{}: {checked} functions, {} rows, {} bytes", path.display(), rows(&table), table.len());
        assert!(checked > 100, "{}", path.display());
        assert!(
            wrong.is_empty(),
            "{}: {} of {checked}: {:?}",
            path.display(),
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}

/// Addresses all over a file, as llvm-symbolizer names them from the same symbol table.
#[test]
fn as_llvm_symbolizer_says() {
    let dir = tempfile::tempdir().unwrap();
    for original in files() {
        // Without debug information, so that theirs come from symbols too and are no inlined functions' names.
        let path = dir.path().join("symbols_only");
        let made = Command::new("strip").arg("-g").arg("-o").arg(&path).arg(&original).status();
        if !made.is_ok_and(|s| s.success()) {
            continue;
        }
        let table = table(&original);
        let symbols = nm(&path, &[]);
        if symbols.is_empty() {
            continue;
        }
        let starts: BTreeMap<u64, u64> =
            symbols.iter().filter(|s| matches!(s.2, 'T' | 't' | 'W') && s.1 > 0).map(|s| (s.0, s.1)).collect();
        let step = (starts.len() / 2000).max(1);
        let addresses: Vec<u64> = starts.iter().step_by(step).map(|(a, size)| a + size / 2).collect();
        let child = Command::new("llvm-symbolizer")
            .args(["--no-demangle", "--output-style=GNU", "--functions=linkage", "--no-inlines", "-e"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else { return };
        let mut stdin = child.stdin.take().unwrap();
        let input: String = addresses.iter().map(|a| format!("{a:#x}\n")).collect();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let lines: Vec<&str> = text.lines().step_by(2).collect();
        assert_eq!(lines.len(), addresses.len());
        let mut different = Vec::new();
        for (address, theirs) in addresses.iter().zip(lines) {
            let ours = name(&table, *address).unwrap_or_default();
            // Names of one address are a matter of taste: the other must stand at the same place in `nm`.
            let place = |name: &str| {
                symbols.iter().find(|s| s.3 == name && s.0 <= *address && *address < s.0 + s.1.max(1)).map(|s| s.0)
            };
            if theirs != "??" && ours != theirs && (place(&ours).is_none() || place(&ours) != place(theirs)) {
                different.push((*address, ours, theirs.to_owned()));
            }
        }
        println!("{}: {} of {} different", path.display(), different.len(), addresses.len());
        assert!(
            different.len() * 100 <= addresses.len(),
            "{}: {:?}",
            path.display(),
            &different[..different.len().min(8)]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn broken_files_are_harmless(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), in_head: bool, keep in prop::option::of(any::<prop::sample::Index>())) {
        static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let file = FILE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            fs::read(compile("cc", SOURCE, &["-O1"], dir.path())).unwrap()
        });
        let mut bytes = file.clone();
        // Most of a file does not matter here: aim at its header and its section headers.
        let heads = usize::try_from(u64::from_le_bytes(file[0x28..0x30].try_into().unwrap())).unwrap();
        for (at, value) in changes {
            let at = if in_head { [at.index(64), heads + at.index(file.len() - heads)][usize::from(value) % 2] } else { at.index(file.len()) };
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(file.len()));
        }
        if let Ok(table) = extract(bytes.as_slice(), &Limits::default()) {
            for address in (0..0x5000).step_by(37) {
                if let Some(symbol) = lookup(&table, address) {
                    prop_assert!(!symbol.name.is_empty());
                }
            }
        }
    }
}
