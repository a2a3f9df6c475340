//! What describes this host, in OpenTelemetry's words.
//!
//! **In**: /proc, /etc of the host (through process 1's root, so that it works in a container that sees the host's
//! processes). **Out**: [`Host`]; what can not be found out is empty; where the host's files are. **Limits**:
//! [`MAX_FILE_BYTES`] of a file count.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MAX_FILE_BYTES: u64 = 16 << 10;

/// This host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// `host.name`.
    pub(crate) name: String,
    /// `host.id`: the machine id.
    pub(crate) id: String,
    /// `host.arch`: `amd64`, `arm64`.
    pub(crate) arch: String,
    /// `os.type`.
    pub(crate) os_type: String,
    /// `os.version`: the kernel's release.
    pub(crate) os_version: String,
    /// `os.description`: the distribution.
    pub(crate) os_description: String,
}

/// Where the host's files are seen: at `configured`, where that works. Who has fewer privileges than process 1 may not look at it, on the host
/// itself neither; there the second process, the kernel's own, shows the same.
pub(crate) fn root(configured: &Path) -> PathBuf {
    let works = |root: &Path| root.join("proc").symlink_metadata().is_ok();
    let kernels = Path::new("/proc/2/root");
    let is_usual = configured.starts_with("/proc/1/root");
    if is_usual && !works(configured) && works(kernels) { kernels.to_owned() } else { configured.to_owned() }
}

impl Host {
    /// Finds out what it can. `root`: where the host's files are seen.
    pub(crate) fn describe(root: &Path) -> Self {
        let uname = nix::sys::utsname::uname();
        let release = uname.as_ref().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        let node = uname.as_ref().map(|u| u.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            name: if other_uts_namespace() { first_line(&root.join("etc/hostname")).unwrap_or(node) } else { node },
            id: [&root.join("etc/machine-id"), Path::new("/etc/machine-id"), Path::new("/var/lib/dbus/machine-id")]
                .iter()
                .find_map(|path| first_line(path).filter(|id| is_machine_id(id)))
                .unwrap_or_default(),
            arch: arch(std::env::consts::ARCH).to_owned(),
            os_type: "linux".to_owned(),
            os_version: release,
            os_description: [&root.join("etc/os-release"), Path::new("/etc/os-release")]
                .iter()
                .find_map(|path| pretty_name(&read(path)?))
                .unwrap_or_default(),
        }
    }
}

/// Whether process 1 has another host name than this process: a container.
fn other_uts_namespace() -> bool {
    let link = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/uts")).ok();
    matches!((link("1"), link("self")), (Some(a), Some(b)) if a != b)
}

fn arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "x86",
        "arm" => "arm32",
        other => other,
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn first_line(path: &Path) -> Option<String> {
    read(path)?.lines().next().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty())
}

fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) && text.bytes().any(|b| b != b'0')
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_name_a_kernel_and_an_architecture() {
        let host = Host::describe(&root(Path::new("/proc/1/root")));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(host.os_version, release.trim());
        assert!(!host.name.is_empty() && ["amd64", "arm64"].contains(&host.arch.as_str()), "{host:?}");
        assert_eq!(host.os_type, "linux");
    }

    #[test]
    fn a_configured_root_is_taken_as_it_is_and_the_usual_one_where_it_works() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(root(dir.path()), dir.path());
        assert_eq!(root(Path::new("/no/such/root")), Path::new("/no/such/root"));
        let found = root(Path::new("/proc/1/root"));
        assert!(found.join("etc").is_dir() || !Path::new("/proc/1/root/etc").is_dir(), "{found:?}");
    }

    #[test]
    fn odd_files_give_nothing() {
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").as_deref(),
            Some("Debian GNU/Linux 12")
        );
        assert_eq!(pretty_name("PRETTY_NAME=\"\"\n"), None);
        assert!(is_machine_id("0123456789abcdef0123456789abcdef"));
        assert!(!is_machine_id("uninitialized") && !is_machine_id(&"0".repeat(32)));
    }
}
