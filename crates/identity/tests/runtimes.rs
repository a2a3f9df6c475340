//! Containers of real runtimes, named by what these keep on disk. Each test says so where its runtime is not installed.
#![expect(clippy::print_stdout, reason = "a skipped test says why")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::wait;
use identity::{Identities, IdentitySettings};
use profile::{Container, Owner, Place, Profile, Runtime};

/// A program on `PATH`, or among the packages that tests unpack.
fn program(name: &str) -> Option<PathBuf> {
    let unpacked =
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/profiler-peers/containerd-debian/usr"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(unpacked.iter().flat_map(|usr| [usr.join("bin"), usr.join("sbin")]));
    dirs.map(|dir| dir.join(name)).find(|p| p.is_file())
}

fn there(names: &[&str]) -> bool {
    let missing = names.iter().find(|name| program(name).is_none());
    if let Some(name) = missing {
        println!("skipped: no {name}");
    } else if !rustix::process::geteuid().is_root() {
        println!("skipped: containers need root");
        return false;
    }
    missing.is_none()
}

fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A root directory with one program in it, which sleeps for ever.
fn sleeper(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    fs::create_dir_all(&root).unwrap();
    fs::write(dir.join("sleeper.c"), "int pause(void); int main(void) { for (;;) pause(); }").unwrap();
    run(Command::new("gcc").args(["-static", "-O1", "-o"]).arg(root.join("sleeper")).arg(dir.join("sleeper.c")));
    root
}

fn identities(host_root: &Path) -> Arc<Identities> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = IdentitySettings { host_root: host_root.to_owned(), ..IdentitySettings::default() };
    Identities::start(settings, &tokio::runtime::Handle::current()).unwrap()
}

fn service(identities: &Identities, place: &Place) -> String {
    let owner = Owner { place: Some(Arc::new(place.clone())), ..Owner::default() };
    let profile = identities.attribute(Profile { owners: vec![Arc::new(owner)], ..Profile::default() });
    profile.owners[0].identity.as_ref().unwrap().service_name.to_string()
}

fn cgroup_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|l| l.strip_prefix("0::")).unwrap().to_owned()
}

struct Podman(String);

impl Podman {
    fn command() -> Command {
        let mut command = Command::new("podman");
        command.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = Self::command().args(["rm", "-f", "-t", "0", &self.0]).output();
        let _ = Self::command().args(["rmi", "-f", &format!("localhost/{}:7", self.0)]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podmans_container() {
    if !there(&["podman", "runc", "gcc", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = sleeper(dir.path());
    let podman = Podman(format!("identity-{}", std::process::id()));
    let (tar, image) = (dir.path().join("root.tar"), format!("localhost/{}:7", podman.0));
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
    run(Podman::command().arg("import").arg(&tar).arg(&image));
    let started = [
        "run",
        "-d",
        "--network",
        "host",
        "--ulimit",
        "nofile=10000:10000",
        "--ulimit",
        "nproc=10000:10000",
        "--name",
        &podman.0,
        &image,
        "/sleeper",
    ];
    let id = run(Podman::command().args(started));
    let pid: u32 = run(Podman::command().args(["inspect", "-f", "{{.State.Pid}}", &podman.0])).parse().unwrap();
    let cgroup = cgroup_of(pid);
    assert!(cgroup.ends_with(&format!("libpod-{id}")), "{cgroup}");
    let container = Container { id: id.as_str().into(), runtime: Runtime::Podman, pod: None };
    let place = Place { cgroup: cgroup.into(), container: Some(container), unit: None };

    let here = identities(Path::new("/"));
    here.seen(&place, pid);
    let found = wait(&here, &place, |w| w.complete()).await;
    assert_eq!(
        (found.container_name.as_deref(), found.image.as_deref()),
        (Some(podman.0.as_str()), Some(image.as_str()))
    );
    assert_eq!(service(&here, &place), podman.0);
    // Where its storage cannot be read, the process that looks after it knows its name.
    let elsewhere = identities(dir.path());
    elsewhere.seen(&place, pid);
    let found = wait(&elsewhere, &place, |w| w.complete()).await;
    assert_eq!((found.container_name.as_deref(), found.image.as_deref()), (Some(podman.0.as_str()), None));
    // Another container's id is not believed of this process.
    let mut forged = place.clone();
    forged.container =
        Some(Container { id: id.replace('0', "1").as_str().into(), runtime: Runtime::Podman, pod: None });
    elsewhere.seen(&forged, pid);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(elsewhere.workload(&forged).is_none());
}

/// The cgroup around those of containerd's containers.
const GROUP: &str = "/identity-test-shop";

struct Containerd {
    child: Child,
    socket: PathBuf,
}

impl Containerd {
    fn start(dir: &Path, state: &Path) -> Self {
        let socket = dir.join("containerd.sock");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            dir.join("lib"),
            state,
            socket,
            dir.join("ttrpc.sock")
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(program("containerd").unwrap());
        command.arg("--config").arg(dir.join("config.toml")).env("PATH", Self::path());
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let started = Self { child, socket };
        let until = Instant::now() + Duration::from_secs(60);
        while !started.ctr(&["version"]).output().unwrap().status.success() {
            assert!(Instant::now() < until, "{}", fs::read_to_string(dir.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
        started
    }

    /// containerd looks for its shim, and the shim for runc.
    fn path() -> std::ffi::OsString {
        let dirs = ["containerd-shim-runc-v2", "runc"].map(|p| program(p).unwrap().parent().unwrap().to_owned());
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(dirs.into_iter().chain(std::env::split_paths(&path))).unwrap()
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("ctr").unwrap());
        command.arg("-a").arg(&self.socket).args(["-n", "shop"]).args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for name in ["web-1", "web-2"] {
            let _ = self.ctr(&["task", "kill", "-s", "KILL", name]).output();
            std::thread::sleep(Duration::from_millis(200));
            let _ = self.ctr(&["task", "rm", "-f", name]).output();
            let _ = self.ctr(&["container", "rm", name]).output();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // runc leaves the cgroup around the containers' own.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(GROUP.trim_start_matches('/')));
        }
        let _ = fs::remove_dir(format!("/sys/fs/cgroup{GROUP}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_containerds_containers() {
    if !there(&["containerd", "containerd-shim-runc-v2", "ctr", "runc", "gcc"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = sleeper(dir.path());
    let containerd = Containerd::start(dir.path(), &dir.path().join("run/containerd"));
    let mut places = Vec::new();
    for name in ["web-1", "web-2"] {
        let cgroup = format!("{GROUP}/{name}");
        run(&mut containerd.ctr(&[
            "run",
            "-d",
            "--cgroup",
            &cgroup,
            "--rootfs",
            root.to_str().unwrap(),
            name,
            "/sleeper",
        ]));
        let tasks = run(&mut containerd.ctr(&["task", "ls"]));
        let pid = tasks.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_whitespace().nth(1)).unwrap();
        let pid: u32 = pid.parse().unwrap();
        assert_eq!(cgroup_of(pid), cgroup);
        places.push((name, pid, Place { cgroup: cgroup.into(), container: None, unit: None }));
    }
    // By the specifications where containerd keeps them, then by the shim where it keeps them elsewhere.
    let nowhere = dir.path().join("nowhere");
    fs::create_dir(&nowhere).unwrap();
    for host_root in [dir.path(), nowhere.as_path()] {
        let here = identities(host_root);
        for (name, pid, place) in &places {
            here.seen(place, *pid);
            let found = wait(&here, place, |w| w.complete()).await;
            assert_eq!((&*found.container_id, found.container_name.as_deref()), (*name, Some(*name)));
            assert_eq!((found.runtime, service(&here, place).as_str()), (Runtime::Containerd, *name));
        }
        // This test's own cgroup is nobody's container.
        let own = Place { cgroup: "/some/other".into(), ..Place::default() };
        here.seen(&own, std::process::id());
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(here.workload(&own).is_none());
    }
}
