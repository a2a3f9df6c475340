//! Tools whose behaviour the test chooses: by a command at the end of the file, or at the start of the snapshot.

use std::collections::HashMap;

use object::ReadRef as _;
use objects::tools::{FileRef, MappedTable, Tools};
use profile::{MapEntry, ObjectId, StackEnd, SymbolName, UserFrame, UserRegisters};

/// Bytes at a file's end that hold its command, padded with spaces.
pub(crate) const COMMAND_BYTES: u64 = 64;

#[derive(Default)]
pub(crate) struct TestTools {
    loaded: HashMap<ObjectId, MappedTable>,
}

/// The command at a file's end; files without one have none.
fn command(file: FileRef<'_>) -> String {
    let read = || {
        let bytes = file.len().ok()?;
        let tail = file.read_bytes_at(bytes.checked_sub(COMMAND_BYTES)?, COMMAND_BYTES).ok()?;
        let text = std::str::from_utf8(tail).ok()?;
        text.trim_end().strip_prefix("command:").map(str::to_owned)
    };
    read().unwrap_or_default()
}

fn misbehave(command: &str) {
    match command {
        "die" => std::process::abort(),
        "panic" => panic!("asked to"),
        "hang" => loop {
            std::hint::spin_loop();
        },
        // `thread::sleep` is a call that the worker may not make.
        "sleep" => drop(rustix::event::poll(&mut [], Some(&rustix::event::Timespec { tv_sec: 3600, tv_nsec: 0 }))),
        "overflow" => {
            #[expect(unconditional_recursion, reason = "the stack is to overflow")]
            fn recurse(bytes: [u8; 4096]) -> u64 {
                u64::from(std::hint::black_box(bytes)[0]) + recurse(std::hint::black_box(bytes)) + 1
            }
            std::hint::black_box(recurse([1; 4096]));
        }
        "memory" => {
            let mut all = Vec::new();
            loop {
                all.push(vec![1_u8; 64 << 20]);
            }
        }
        _ => {}
    }
}

impl Tools for TestTools {
    fn extract_unwind(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        let command = command(file);
        misbehave(&command);
        if let Some(bytes) = command.strip_prefix("unwind=") {
            return Ok(vec![b'u'; bytes.parse().unwrap()]);
        }
        match command.as_str() {
            "bad" => Err("as asked".into()),
            "middle" => {
                let at = file.len().unwrap() - 2 * 8192;
                Ok(file.read_bytes_at(at, 1).unwrap().to_vec())
            }
            "die-load" | "refuse-load" | "die-unwind" => Ok(command.into_bytes()),
            _ => Ok(b"unwind".to_vec()),
        }
    }

    fn extract_debug(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        let command = command(file);
        misbehave(&command);
        Ok(command.into_bytes())
    }

    fn compile_walk(&self, mut unwind: Vec<u8>, debug: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        unwind.reverse();
        unwind.extend(debug.unwrap_or_default());
        Ok(unwind)
    }

    fn extract_symbols(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        let command = command(file);
        if let Some(call) = command.strip_prefix("call=") {
            let mut numbers = call.split(',').map(|number| number.parse().unwrap());
            let [call, a, b, c, d] = [(); 5].map(|()| numbers.next().unwrap_or(0));
            // SAFETY: what tests ask for changes nothing in this process, or ends it.
            let result = unsafe { libc::syscall(call, a, b, c, d, -1, 0) };
            return Ok(if result == -1 { "refused" } else { "done" }.into());
        }
        if command == "probe" {
            let variables = std::env::vars_os().count();
            let fds = (0..64).filter(|&fd| is_open(fd)).count();
            return Ok(format!("env={variables} fds={fds}").into());
        }
        match command.as_str() {
            "bad" => Err("as asked".into()),
            "" => Ok(b"plain".to_vec()),
            _ => Ok(command.into_bytes()),
        }
    }

    fn load_unwind(&mut self, object: ObjectId, bytes: MappedTable) -> Result<(), String> {
        match &*bytes {
            b"die-load" => std::process::abort(),
            b"refuse-load" => Err("as asked".into()),
            _ => {
                self.loaded.insert(object, bytes);
                Ok(())
            }
        }
    }

    fn forget(&mut self, object: ObjectId) {
        self.loaded.remove(&object);
    }

    /// One frame for each mapping that a register or a word of the stack points into; root if all of these objects
    /// are loaded.
    fn unwind(
        &mut self,
        maps: &[MapEntry],
        registers: &UserRegisters,
        stack: &[u8],
        frames: &mut Vec<UserFrame>,
    ) -> StackEnd {
        let text = stack.get(..16).unwrap_or_default();
        misbehave(String::from_utf8_lossy(text).trim_end_matches(['\0', ' ']));
        let words = stack.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let mut end = StackEnd::Root;
        for pc in [registers.pc].into_iter().chain(words) {
            let Some(map) = maps.iter().find(|map| map.start <= pc && pc < map.end) else { continue };
            match map.object {
                Some(object) => {
                    frames.push(UserFrame::Object { object, address: pc - map.start + map.file_offset });
                    match self.loaded.get(&object).map(|table| &**table) {
                        None => end = StackEnd::NoTable,
                        Some(b"die-unwind") => std::process::abort(),
                        Some(_) => {}
                    }
                }
                None => frames.push(UserFrame::Unmapped { address: pc }),
            }
        }
        end
    }

    fn name(&self, symbols: &[u8], address: u64) -> Option<SymbolName> {
        let text = std::str::from_utf8(symbols).unwrap();
        match text {
            "" => None,
            "die-names" => std::process::abort(),
            "long-names" => {
                let name = "ä".repeat(10_000);
                Some(SymbolName { name: name.clone(), system_name: name, ..SymbolName::default() })
            }
            "empty-names" => Some(SymbolName { name: String::new(), system_name: "x".into(), ..SymbolName::default() }),
            text => Some(SymbolName {
                name: format!("{text}@{address:x}"),
                system_name: text.into(),
                ..SymbolName::default()
            }),
        }
    }
}

/// Whether a descriptor is open.
fn is_open(fd: u8) -> bool {
    use std::os::fd::{BorrowedFd, RawFd};
    // SAFETY: borrowed for one question, which for a closed descriptor only fails.
    let fd = unsafe { BorrowedFd::borrow_raw(RawFd::from(fd)) };
    rustix::io::fcntl_getfd(fd).is_ok()
}
