//! The kernel's lists of CPUs.
//!
//! **In**: text like `0-3,8`. **Out**: the numbers, sorted. **Limits**: at most [`MAX_CPUS`], as the kernel itself.

use std::{fs, io};

/// The most CPUs that a kernel can be built for on the architectures that we know.
const MAX_CPUS: u32 = 8192;
const ONLINE: &str = "/sys/devices/system/cpu/online";
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// The CPUs that are online now.
pub(crate) fn online() -> io::Result<Vec<u32>> {
    read(ONLINE)
}

/// The CPUs that could ever come online; the kernel hands out per-CPU values in this order.
pub(super) fn possible() -> io::Result<Vec<u32>> {
    read(POSSIBLE)
}

fn read(path: &str) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(path)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {}", text.trim())))
}

fn parse(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        #[track_caller]
        fn check(text: &str, expected: Option<&[u32]>) {
            assert_eq!(parse(text).as_deref(), expected, "{text:?}");
        }
        check("0\n", Some(&[0]));
        check("0-1\n", Some(&[0, 1]));
        check("0,2-4,7", Some(&[0, 2, 3, 4, 7]));
        check("3,1", Some(&[1, 3]));
        check("\n", Some(&[]));
        check("4-2", None);
        check("0-99999999", None);
        check("a", None);
        check("1-", None);
    }

    #[test]
    fn this_machine_has_cpus() {
        let (online, possible) = (online().unwrap(), possible().unwrap());
        assert!(!online.is_empty());
        assert!(online.iter().all(|cpu| possible.contains(cpu)));
    }
}
