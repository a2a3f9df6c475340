//! A container's id from `/proc/PID/cgroup`.
//!
//! Runtimes name the cgroup of a container after its id, 64 hex digits: `/docker/ID`,
//! `/kubepods.slice/…/cri-containerd-ID.scope`, `/libpod-ID.scope/container`.

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

/// The innermost container's id in the file's text, if any.
pub(crate) fn container_id(cgroup: &[u8]) -> Option<&str> {
    cgroup
        .split(|&b| b == b'\n')
        .filter_map(|line| line.splitn(3, |&b| b == b':').nth(2))
        .find_map(|path| path.rsplit(|&b| b == b'/').find_map(in_component))
}

fn in_component(component: &[u8]) -> Option<&str> {
    component
        .split(|b| !b.is_ascii_alphanumeric())
        .find(|part| part.len() == ID_DIGITS && part.iter().all(u8::is_ascii_hexdigit))
        .and_then(|part| std::str::from_utf8(part).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_patterns() {
        let id = "0123456789abcdef".repeat(4);
        let check =
            |text: String, expected: Option<&str>| assert_eq!(container_id(text.as_bytes()), expected, "{text}");
        check(format!("0::/docker/{id}\n"), Some(&id));
        check(format!("0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{id}.scope\n"), Some(&id));
        check(format!("0::/machine.slice/libpod-{id}.scope/container\n"), Some(&id));
        check(format!("12:pids:/\n11:memory:/kubepods/burstable/pod7/{id}\n"), Some(&id));
        check("0::/user.slice/user-0.slice/session-1.scope\n".to_owned(), None);
        check(format!("0::/x/{id}0\n"), None);
        check("garbage \u{1}".to_owned(), None);
    }
}
