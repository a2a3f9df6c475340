//! A workload whose stack is known to the byte, without frame pointers, and its tables.

use std::{collections::HashMap, env, fs, process};

use object::{
    LittleEndian,
    elf::{FileHeader64, PF_X, PT_LOAD},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use profile::Segment;
use sampler::kernel::TablesHandle;
use sampler_abi::ProcessEntry;
use unwind_table::{Arena, Mapping};

use crate::support::{self, Process};

/// Says to a process of this program that it is the workload: levels, and whether its leaf makes system calls.
const WORKLOAD: &str = "KERNEL_TEST_WORKLOAD";

std::arch::global_asm!(
    ".pushsection .text.kernel_test_deep, \"ax\", @progbits",
    // Calls itself as often as edi says; then burns the CPU, or where esi is not 0 makes system calls, for ever. The frame pointer's
    // register holds no frame pointer.
    ".globl kernel_test_deep",
    ".type kernel_test_deep, @function",
    "kernel_test_deep:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbp, 0",
    "movabs rbp, 0x0123456789abcdef",
    "sub rsp, 32",
    ".cfi_adjust_cfa_offset 32",
    "test edi, edi",
    "je 2f",
    "dec edi",
    "call kernel_test_deep",
    ".globl kernel_test_deep_after",
    "kernel_test_deep_after:",
    "ud2",
    "2: test esi, esi",
    "jne 4f",
    "3: add rax, 1",
    "imul rax, rax, 3",
    "jmp 3b",
    // sched_yield
    "4: mov eax, 24",
    "syscall",
    "jmp 4b",
    ".cfi_endproc",
    ".globl kernel_test_deep_end",
    "kernel_test_deep_end:",
    ".size kernel_test_deep, . - kernel_test_deep",
    ".popsection",
);

unsafe extern "C" {
    fn kernel_test_deep(levels: u32, in_kernel: u32) -> !;
    static kernel_test_deep_after: u8;
    static kernel_test_deep_end: u8;
}

/// The workload's process.
#[test]
#[ignore = "the workload of other tests: never ends"]
fn the_workload() {
    let Some((levels, in_kernel)) = env::var(WORKLOAD).ok().and_then(|words| {
        let (levels, in_kernel) = words.split_once(' ')?;
        Some((levels.parse().ok()?, in_kernel.parse().ok()?))
    }) else {
        return;
    };
    // SAFETY: never returns; touches its own registers and its stack, some dozen bytes for each level.
    unsafe { kernel_test_deep(levels, in_kernel) }
}

/// A running workload.
pub(crate) struct Deep {
    pub(crate) process: Process,
    levels: usize,
    /// Where its code is, there.
    code: std::ops::Range<u64>,
    after: u64,
}

impl Deep {
    pub(crate) fn start(levels: u16, in_kernel: bool) -> Self {
        let program = env::current_exe().unwrap();
        let workload = format!("{levels} {}", u8::from(in_kernel));
        let arguments = ["--ignored", "--exact", "deep::the_workload", "--nocapture"];
        let process = Process::start_with(program.to_str().unwrap(), &arguments, &[(WORKLOAD, &workload)]);
        // The same file is mapped here and there.
        let base = |tgid| {
            let first = support::mappings(tgid).into_iter().find(|mapping| mapping.name == program.to_str().unwrap());
            first.unwrap().range.start
        };
        let there = base(process.tgid()).wrapping_sub(base(process::id()));
        let at = |address: u64| address.wrapping_add(there);
        Self {
            levels: usize::from(levels),
            code: at(kernel_test_deep as *const () as u64)..at(&raw const kernel_test_deep_end as u64),
            after: at(&raw const kernel_test_deep_after as u64),
            process,
        }
    }

    /// Whether a sample's registers are those of the loop.
    pub(crate) fn is_in_loop(&self, pc: u64) -> bool {
        (self.after..self.code.end).contains(&pc)
    }

    /// Whether the frames are the leaf, then every call of the recursion, then others; cut at `limit`.
    pub(crate) fn is_stack(&self, pc: u64, frames: &[u64], limit: usize) -> bool {
        let calls = frames.iter().skip(1).take_while(|&&frame| frame == self.after - 1).count();
        let whole = frames.len() < limit;
        let expected = if whole { self.levels } else { self.levels.min(limit - 1) };
        frames.first() == Some(&pc) && calls == expected && (!whole || frames.len() > self.levels + 2)
    }
}

/// Tables for a kernel side.
pub(crate) struct Tables {
    pub(crate) handle: TablesHandle,
    arena: Arena,
    /// Number in the arena, segments.
    files: HashMap<String, (u64, Vec<Segment>)>,
}

impl Tables {
    /// With so many shards.
    pub(crate) fn new(mut handle: TablesHandle, shards: u32) -> Self {
        for number in 0..shards {
            assert_eq!(handle.add_shard().unwrap(), number);
        }
        Self { handle, arena: Arena::new(shards), files: HashMap::new() }
    }

    /// The executable mappings of a process, with the tables of their files.
    pub(crate) fn mappings(&mut self, tgid: u32) -> Vec<Mapping> {
        let maps = support::mappings(tgid);
        maps.iter().filter(|mapping| mapping.executable).map(|mapping| self.mapping(mapping)).collect()
    }

    fn mapping(&mut self, mapping: &support::Mapping) -> Mapping {
        let (start, end) = (mapping.range.start, mapping.range.end);
        if !mapping.name.starts_with('/') {
            return Mapping::without_table(start, end);
        }
        if !self.files.contains_key(&mapping.name) {
            let (key, file) = (self.files.len() as u64, fs::read(&mapping.name).unwrap());
            let extracted = unwind::extract(file.as_slice(), &unwind::Limits::default()).unwrap();
            let table = unwind::compile(extracted, None).unwrap().table;
            self.arena.load(key, &table, 1, &mut self.handle).unwrap();
            self.files.insert(mapping.name.clone(), (key, segments(&file)));
        }
        let (key, segments) = &self.files[&mapping.name];
        let bias = profile::bias(segments, start, end, mapping.offset).unwrap();
        self.arena.placed(*key).unwrap().mapping(start, end, bias)
    }

    /// Publishes a process with these mappings.
    pub(crate) fn publish(&mut self, tgid: u32, leader_start_mono_ns: u64, serial: u64, mappings: &[Mapping]) {
        let (place, mapping_count) = self.arena.place_mappings(mappings, &mut self.handle).unwrap();
        let entry = ProcessEntry { leader_start_mono_ns, serial, mappings: place.0, mapping_count };
        assert!(self.handle.publish(tgid, &entry).unwrap());
        assert_eq!(self.handle.published(tgid).unwrap(), Some(entry));
    }
}

fn segments(file: &[u8]) -> Vec<Segment> {
    let header = FileHeader64::<LittleEndian>::parse(file).unwrap();
    let loads = header.program_headers(LittleEndian, file).unwrap().iter();
    loads
        .filter(|load| load.p_type(LittleEndian) == PT_LOAD)
        .map(|load| Segment {
            elf_address: load.p_vaddr(LittleEndian),
            file_offset: load.p_offset(LittleEndian),
            file_bytes: load.p_filesz(LittleEndian),
            executable: load.p_flags(LittleEndian).0 & PF_X.0 != 0,
        })
        .collect()
}
