//! Where stacks begin, told by something else than the profiler: the ELF header of the outermost frame's file, and the names of
//! the functions that threads begin in.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

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
];

/// Says of frames whether a stack begins with them; remembers what files say.
#[derive(Debug, Default)]
pub struct Roots {
    entries: HashMap<String, Option<u64>>,
}

impl Roots {
    /// Whether a frame (its file, its address in the ELF file, its function's name) is the beginning of a stack.
    pub fn begins(&mut self, file: &str, address: u64, name: &str) -> bool {
        if THREADS.contains(&name.trim_end_matches(".abi0")) {
            return true;
        }
        if !self.entries.contains_key(file) {
            self.entries.insert(file.to_owned(), entry_point(Path::new(file)));
        }
        let entry = self.entries.get(file).copied().flatten();
        entry.is_some_and(|entry| (entry..entry + ENTRY_BYTES).contains(&address))
    }
}

/// `e_entry` of a 64-bit ELF file.
fn entry_point(file: &Path) -> Option<u64> {
    if !file.is_absolute() {
        return None;
    }
    let mut head = [0; 64];
    fs::File::open(file).ok()?.read_exact(&mut head).ok()?;
    head.starts_with(b"\x7fELF\x02\x01").then(|| u64::from_le_bytes(std::array::from_fn(|i| head[24 + i])))
}
