//! Headless Chromium: what a person's browser makes of a page.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::wait_for;

/// How long one page may take.
const LONGEST: Duration = Duration::from_secs(90);

fn chromium(folder: &Path, name: &str, words: &[String]) -> Result<String> {
    let (out, log) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.log")));
    let user = tempfile::tempdir()?;
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ]);
    command.arg(format!("--user-data-dir={}", user.path().display())).args(words);
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&log)?);
    let mut child = command.spawn().context("chromium cannot be started: apt-get install chromium")?;
    let ended = wait_for("chromium", LONGEST, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let errors = || crate::process::tail(&String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()));
    ensure!(ended?.success(), "chromium failed: {}", errors());
    Ok(String::from_utf8_lossy(&std::fs::read(&out)?).into_owned())
}

/// The page's elements after its scripts have run for `wait`.
///
/// # Errors
/// When Chromium fails.
pub fn elements(folder: &Path, name: &str, url: &str, wait: Duration) -> Result<String> {
    let budget = format!("--virtual-time-budget={}", wait.as_millis());
    let text = chromium(folder, name, &["--window-size=1400,900".into(), budget, "--dump-dom".into(), url.into()])?;
    std::fs::write(folder.join(format!("{name}.html")), &text)?;
    Ok(text)
}

/// A picture of the page after its scripts have run for `wait`.
///
/// # Errors
/// When Chromium fails, or leaves no picture.
pub fn picture(folder: &Path, name: &str, url: &str, wait: Duration) -> Result<()> {
    let file = folder.join(format!("{name}.png"));
    let words = [
        "--window-size=1400,900".to_owned(),
        format!("--virtual-time-budget={}", wait.as_millis()),
        format!("--screenshot={}", file.display()),
        url.to_owned(),
    ];
    chromium(folder, &format!("{name}-picture"), &words)?;
    ensure!(std::fs::metadata(&file)?.len() > 1000, "{} is empty", file.display());
    Ok(())
}
