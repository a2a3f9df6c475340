//! The real tools in the real worker, on our own stack and on files of this machine.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use objects::tools::{FileRef, MappedTable, Tools};
use objects::{MappedFile, Objects, UnwindRequest, UserSample};
use profile::{ElfAddress, FileOffset, MapEntry, ObjectId, ObjectInfo, StackEnd, SymbolName, UserFrame, UserRegisters};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Folder, Test, config_with, object};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("real::our_own_stack_is_unwound_to_its_root_and_named", our_own_stack),
        ("real::the_vdso_has_tables_of_both_kinds", the_vdso),
        ("real::garbage_never_harms_the_room", garbage),
        ("real::files_have_tables_for_the_walk", walk_tables),
    ]
}

/// What the binary does: plain delegation.
#[derive(Default)]
pub(crate) struct RealTools {
    unwinder: unwind::Unwinder,
}

impl Tools for RealTools {
    fn extract_unwind(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        unwind::extract(file, &unwind::Limits::default()).map_err(|error| error.to_string())
    }

    fn extract_debug(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        unwind::extract_debug(file, &unwind::Limits::default()).map_err(|error| error.to_string())
    }

    fn compile_walk(&self, unwind: Vec<u8>, debug: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        Ok(unwind::compile(unwind, debug).map_err(|error| error.to_string())?.table.to_bytes())
    }

    fn extract_symbols(&self, file: FileRef<'_>) -> Result<Vec<u8>, String> {
        symbolizer::table::extract(file, &symbolizer::table::Limits::default()).map_err(|error| error.to_string())
    }

    fn load_unwind(&mut self, object: ObjectId, bytes: MappedTable) -> Result<(), String> {
        self.unwinder.load(object, bytes).map_err(|error| error.to_string())
    }

    fn forget(&mut self, object: ObjectId) {
        self.unwinder.forget(object);
    }

    fn unwind(
        &mut self,
        maps: &[MapEntry],
        registers: &UserRegisters,
        stack: &[u8],
        frames: &mut Vec<UserFrame>,
    ) -> StackEnd {
        self.unwinder.unwind(maps, registers, stack, frames)
    }

    fn name(&self, symbols: &[u8], address: u64) -> Option<SymbolName> {
        symbolizer::name(symbols, address)
    }
}

fn room() -> Objects {
    Objects::start(config_with(&["real-worker"])).unwrap()
}

/// Our own executable mappings, with their files.
fn own_maps(room: &Objects) -> (Vec<MapEntry>, Vec<Arc<ObjectInfo>>) {
    let (mut maps, mut objects) = (Vec::new(), Vec::new());
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        if !columns[1].contains('x') {
            continue;
        }
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = columns[0].split_once('-').unwrap();
        let (major, minor) = columns[3].split_once(':').unwrap();
        let file = MappedFile {
            major: number(major) as u32,
            minor: number(minor) as u32,
            inode: columns[4].parse().unwrap(),
            generation: 0,
            path: columns.get(5).copied().unwrap_or_default().into(),
        };
        let (start, end) = (number(start), number(end));
        let info = room.object(&file, std::process::id(), start..end);
        let object = info.readable.then_some(info.id);
        maps.push(MapEntry { start, end, file_offset: number(columns[2]), object });
        objects.push(info);
    }
    (maps, objects)
}

/// Registers and stack of this very place.
#[inline(never)]
fn snapshot() -> UserSample {
    let (pc, sp, fp): (u64, u64, u64);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads registers.
    unsafe {
        std::arch::asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) pc, out(reg) sp, out(reg) fp);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads registers.
    unsafe {
        std::arch::asm!("adr {}, .", "mov {}, sp", "mov {}, x29", out(reg) pc, out(reg) sp, out(reg) fp);
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let end = maps
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.split_once('-'))
        .map(|(start, end)| (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap()))
        .find(|(start, end)| (*start..*end).contains(&sp))
        .unwrap()
        .1;
    let bytes = usize::try_from((end - sp).min(128 << 10)).unwrap();
    // SAFETY: our own stack, from our frame up to at most its end; nobody but this thread writes to it.
    let stack = unsafe { std::slice::from_raw_parts(sp as *const u8, bytes) }.to_vec();
    UserSample { process: 0, registers: UserRegisters { pc, sp, fp, lr: 0 }, stack }
}

#[inline(never)]
fn recurse_for_the_test(depth: u32) -> UserSample {
    let sample = if depth == 0 { snapshot() } else { recurse_for_the_test(depth - 1) };
    std::hint::black_box(sample)
}

fn our_own_stack() {
    let room = room();
    let (maps, _objects) = own_maps(&room);
    let sample = recurse_for_the_test(12);
    let stacks = room.unwind(&UnwindRequest { processes: vec![maps], samples: vec![sample] });
    assert_eq!(stacks[0].end, StackEnd::Root, "{:?}: {:?}", stacks[0], room.stats());
    let names: Vec<String> = stacks[0]
        .frames
        .iter()
        .map(|frame| match frame {
            UserFrame::Object { object, address } => {
                let name = room.names(*object, &[ElfAddress(*address)]).remove(0);
                name.map_or_else(|| "?".to_owned(), |name| name.name)
            }
            UserFrame::Unmapped { .. } => "unmapped".to_owned(),
        })
        .collect();
    assert!(names[0].contains("snapshot"), "{names:?}");
    let depth = names.iter().filter(|name| name.contains("recurse_for_the_test")).count();
    assert_eq!(depth, 13, "{names:?}");
    assert!(names.iter().any(|name| name.contains("our_own_stack")), "{names:?}");
    let stats = room.stats();
    assert_eq!((stats.worker_restarts, stats.worker_failed_requests, stats.parse_errors), (0, 0, 0), "{stats:?}");
}

fn the_vdso() {
    let room = room();
    let info = room.vdso().unwrap();
    assert!(info.readable);
    // Where one of its functions is, by the dynamic linker.
    // SAFETY: strings that live until the call returns.
    let (handle, address) = unsafe {
        let handle = libc::dlopen(c"linux-vdso.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        (handle, libc::dlsym(handle, c"__vdso_clock_gettime".as_ptr()) as u64)
    };
    assert!(!handle.is_null() && address != 0);
    let (maps, _) = own_maps(&room);
    let map = maps.iter().find(|map| map.start <= address && address < map.end).unwrap();
    assert_eq!(map.object, Some(info.id), "found by its mapping");
    let elf = info.elf_address_of(FileOffset(address - map.start)).unwrap();
    let name = room.names(info.id, &[elf]).remove(0).unwrap();
    assert!(name.name.contains("clock_gettime"), "{name:?}");
    // And it can be unwound: from its first instruction, to a return address in our own code.
    let caller = snapshot as fn() -> UserSample as usize as u64 + 4;
    let mut stack = caller.to_le_bytes().to_vec();
    stack.resize(256, 0);
    let registers = UserRegisters { pc: address, sp: 0x7000_0000, fp: 0, lr: caller };
    let sample = UserSample { process: 0, registers, stack };
    let stacks = room.unwind(&UnwindRequest { processes: vec![maps], samples: vec![sample] });
    let callers: Vec<_> = stacks[0].frames.iter().skip(1).collect();
    assert!(matches!(callers[..], [UserFrame::Object { .. }, ..]), "{stacks:?}");
    assert_eq!(room.stats().parse_errors, 0);
}

fn garbage() {
    let (room, folder) = (room(), Folder::new());
    let whole = [fs::read("/bin/sleep").unwrap(), own_debug_program(&folder)];
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(250) });
    let strategy = (
        0..whole.len(),
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..200),
        any::<proptest::sample::Index>(),
        any::<bool>(),
    );
    let count = std::cell::Cell::new(0);
    runner
        .run(&strategy, |(which, changes, cut, is_cut)| {
            let mut content = whole[which].clone();
            for (at, value) in changes {
                let at = at.index(content.len());
                content[at] = value;
            }
            if is_cut {
                content.truncate(cut.index(content.len()));
            }
            count.set(count.get() + 1);
            let path = folder.path(&format!("g{}", count.get()));
            fs::File::create(&path).unwrap().write_all(&content).unwrap();
            let info = object(&room, &path);
            // Whatever came of it is used.
            let addresses: Vec<_> = (0..64).map(|at| ElfAddress(at * 0x100)).collect();
            prop_assert_eq!(room.names(info.id, &addresses).len(), 64);
            let maps = vec![MapEntry { start: 0, end: 1 << 40, file_offset: 0, object: Some(info.id) }];
            let samples = (0..32_u64)
                .map(|at| UserSample {
                    process: 0,
                    registers: UserRegisters { pc: at * 0x200 + 0x1000, sp: 0x7000_0000, fp: 0x7000_0010, lr: 0 },
                    stack: (0..128_u64).flat_map(|word| (word * 0x40 + 0x1000).to_le_bytes()).collect(),
                })
                .collect();
            prop_assert_eq!(room.unwind(&UnwindRequest { processes: vec![maps], samples }).len(), 32);
            fs::remove_file(&path).unwrap();
            Ok(())
        })
        .unwrap();
    // A worker may die of garbage; nothing else may.
    let stats = room.stats();
    assert_eq!(stats.worker_restarts, 0, "the tools are not to die of garbage: {stats:?}");
}

/// A program with debug sections, built here.
fn own_debug_program(folder: &Folder) -> Vec<u8> {
    let (source, program) = (folder.path("p.c"), folder.path("p"));
    fs::write(&source, "int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); } int main(void) { return f(9); }")
        .unwrap();
    let built = Command::new("cc").args(["-g", "-O1", "-o"]).arg(&program).arg(&source).status().unwrap();
    assert!(built.success());
    fs::read(&program).unwrap()
}

fn walk_tables() {
    let room = room();
    let (maps, objects) = own_maps(&room);
    let mut with_table = 0;
    for (map, object) in maps.iter().zip(&objects) {
        let Some(bytes) = room.walk_table(object.id) else { continue };
        let table = unwind_table::FileTable::parse(&bytes).unwrap();
        assert!(table.rows() > 0 && map.object == Some(object.id), "{}", object.path);
        with_table += 1;
    }
    let readable = objects.iter().filter(|object| object.readable).count();
    assert!(readable >= 2 && with_table == readable, "{with_table} of {readable}");
    let vdso = room.walk_table(room.vdso().unwrap().id).unwrap();
    assert!(unwind_table::FileTable::parse(&vdso).unwrap().rows() > 0);
    let text = tempfile::NamedTempFile::new().unwrap();
    fs::write(text.path(), "no ELF file").unwrap();
    let none = room.object(&crate::support::mapped(text.path()), std::process::id(), 0..0);
    assert!(room.walk_table(none.id).is_none());
}
