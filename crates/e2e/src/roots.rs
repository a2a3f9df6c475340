//! Where stacks begin, told by something else than the profiler: the ELF header of the outermost frame's file, the code that the
//! outermost frame returns to (it ends the thread), and the names of functions that threads begin in.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// How far the code at an entry point reaches: it calls the first function of its language, and that does not return.
const ENTRY_BYTES: u64 = 0x60;

/// Functions of C libraries that begin a thread, and those of Go that begin a goroutine, or a stack of the runtime's own.
const THREADS: &[&str] = &[
    "clone",
    "clone3",
    "__clone",
    "__clone3",
    "__GI___clone",
    "__GI___clone3",
    "start_thread",
    "runtime.goexit",
    "runtime.mstart",
    "runtime.rt0_go",
    "runtime.clone",
    "runtime.systemstack",
    "runtime.mcall",
    "runtime.morestack",
    // musl: of the code above nothing is told by any table, and it keeps no frame pointers.
    "libc_start_main_stage2",
];

/// What `clone` and `clone3` of C libraries do when a thread's function returns: `exit` with what it returned.
#[cfg(target_arch = "x86_64")]
const EXITS: &[&[u8]] = &[
    // mov %rax, %rdi; mov $60, %eax; syscall
    &[0x48, 0x89, 0xc7, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05],
    // mov %eax, %edi; mov $60, %eax; syscall
    &[0x89, 0xc7, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05],
    // mov %eax, %edi; xor %eax, %eax; mov $60, %al; syscall
    &[0x89, 0xc7, 0x31, 0xc0, 0xb0, 0x3c, 0x0f, 0x05],
];
#[cfg(target_arch = "aarch64")]
const EXITS: &[&[u8]] = &[
    // mov x8, 93; svc 0
    &[0xa8, 0x0b, 0x80, 0xd2, 0x01, 0, 0, 0xd4],
];

/// Says of frames whether a stack begins with them; remembers what files say.
#[derive(Debug, Default)]
pub struct Roots {
    files: HashMap<String, Option<Elf>>,
}

impl Roots {
    /// Whether a frame (its file, its address in the ELF file, its function's name) is the beginning of a stack.
    pub fn begins(&mut self, file: &str, address: u64, name: &str) -> bool {
        if THREADS.contains(&name.trim_end_matches(".abi0")) {
            return true;
        }
        if !self.files.contains_key(file) {
            self.files.insert(file.to_owned(), Elf::read(Path::new(file)));
        }
        let Some(elf) = self.files.get(file).and_then(Option::as_ref) else { return false };
        (elf.entry..elf.entry + ENTRY_BYTES).contains(&address) || elf.ends_thread(address)
    }
}

/// What is needed of a 64-bit ELF file.
#[derive(Debug)]
struct Elf {
    entry: u64,
    /// Executable segments: first address, offset in the file, bytes.
    code: Vec<(u64, u64, u64)>,
    path: PathBuf,
}

impl Elf {
    fn read(path: &Path) -> Option<Self> {
        if !path.is_absolute() {
            return None;
        }
        let file = File::open(path).ok()?;
        let head: [u8; 64] = bytes(&file, 0)?;
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let mut code = Vec::new();
        for i in 0..u64::from(u16::from_le_bytes([head[56], head[57]])) {
            let segment: [u8; 56] = bytes(&file, word(&head, 32) + i * 56)?;
            let (kind, flags) = (segment[0], segment[4]);
            if kind == 1 && flags & 1 != 0 {
                code.push((word(&segment, 16), word(&segment, 8), word(&segment, 32)));
            }
        }
        Some(Self { entry: word(&head, 24), code, path: path.to_owned() })
    }

    /// Whether the code behind a call at this address (less one, as frames tell it) ends the thread.
    fn ends_thread(&self, address: u64) -> bool {
        let within = self.code.iter().find(|(start, _, length)| (*start..start + length).contains(&address));
        let Some((start, offset, _)) = within else { return false };
        let Ok(file) = File::open(&self.path) else { return false };
        let after: Option<[u8; 16]> = bytes(&file, address + 1 - start + offset);
        after.is_some_and(|after| EXITS.iter().any(|exit| after.starts_with(exit)))
    }
}

fn bytes<const N: usize>(file: &File, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_entries_and_the_ends_of_threads() {
        let elf = Elf::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(!elf.code.is_empty() && elf.code.iter().any(|(start, _, n)| (*start..start + n).contains(&elf.entry)));
        let mut roots = Roots::default();
        let own = std::env::current_exe().unwrap().display().to_string();
        assert!(roots.begins(&own, elf.entry + 4, "") && !roots.begins(&own, elf.entry + 0x1000, "main"));
        assert!(roots.begins("[vdso]", 0, "clone3") && roots.begins("", 7, "runtime.goexit.abi0"));
        assert!(!roots.begins("/nowhere", 0, ""));
    }
}
