//! What maps cost.
//!
//! **In**: `/proc/self/fdinfo`. **Out**: bytes, as the kernel accounts for them. **Limits**: none of its own.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{Ebpf, maps::Map};

/// All maps of a loaded object.
pub(super) fn of_all(ebpf: &Ebpf) -> u64 {
    ebpf.maps().filter_map(|(_, map)| of_map(descriptor(map)?)).sum()
}

/// One map; none where /proc does not tell.
pub(super) fn of_map(map: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).ok()?;
    bytes_in(&info)
}

fn bytes_in(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Of the kinds that the object has.
fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map) | Map::ArrayOfMaps(map) | Map::HashMap(map) | Map::PerCpuArray(map) | Map::RingBuf(map) => {
            Some(map.fd().as_fd())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bytes() {
        let info = "pos:\t0\nmap_type:\t2\nmax_entries:\t1\nmemlock:\t1052672\nmap_id:\t7\n";
        assert_eq!(bytes_in(info), Some(1_052_672));
        assert_eq!(bytes_in("pos:\t0\n"), None);
    }
}
