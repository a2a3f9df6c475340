//! Running other programs: said first, timed, and kept in a log.
//!
//! **In**: commands of this crate. **Out**: success, or an error that names the command and its log's last lines.
//! **Limits**: none of its own; whoever runs a command that may hang gives it a time.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// The checkout that this xtask was built from.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where builds go: `CARGO_TARGET_DIR`, else `target` in the checkout.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Cargo, in the checkout, as from a shell. What the cargo that runs this program says of its package would have the build scripts
/// of others run again, and with them all that depends on those.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|of| name.as_encoded_bytes().starts_with(of.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}

/// Where a program is, as the shell would find it.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file())
}

/// A command as one would type it, for messages.
fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with all its output in `log`.
///
/// # Errors
/// When it cannot be started, or fails: then with the last lines of the log.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut out = File::options().create(true).append(true).open(log)?;
    writeln!(out, "$ {}", typed(command))?;
    let status = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).status();
    let status = status.with_context(|| format!("{}: cannot be started", typed(command)))?;
    if !status.success() {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        bail!("{}: {status}; the end of {}:\n{tail}", typed(command), log.display());
    }
    Ok(())
}

/// Runs a command and returns what it wrote on standard output.
///
/// # Errors
/// When it cannot be started, or fails: then with what it wrote on standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("{}: cannot be started", typed(command)))?;
    if !done.status.success() {
        bail!("{}: {}: {}", typed(command), done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a command, showing its standard output and keeping it in `log`; standard error goes to ours.
/// `each` sees every line of standard output.
///
/// # Errors
/// When it cannot be started or read.
pub(crate) fn shown(command: &mut Command, log: &Path, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut kept = File::create(log)?;
    say(&format!("$ {}", typed(command)));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|e| anyhow::anyhow!("{}: cannot be started: {e}", typed(command)))?;
    let out = child.stdout.take().context("a piped child has an output")?;
    let mut reader = BufReader::new(out);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n');
        writeln!(kept, "{text}")?;
        say(text);
        each(text);
        line.clear();
    }
    Ok(child.wait()?)
}

/// One line on standard output: what the person who ran xtask reads.
#[expect(clippy::print_stdout, reason = "xtask is a command line tool: this is its one way to speak")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Does one step, says what and how long it took.
///
/// # Errors
/// The step's own.
pub(crate) fn timed<T>(what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = step();
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("{} {what} ({seconds:.1} s)", if done.is_ok() { "ok  " } else { "FAIL" }));
    done
}

/// Says on standard error what went wrong, with what led to it.
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("xtask: {error:#}");
}
