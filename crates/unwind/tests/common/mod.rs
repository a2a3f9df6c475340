//! Real programs, stopped at a known place, and what is known of them.
#![allow(dead_code, unreachable_pub, reason = "not every test needs every helper")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::zombie_processes,
    reason = "a helper of tests; `Traced` waits when it is dropped"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Object, ObjectSection, ObjectSymbol};
use profile::{FileOffset, MapEntry, ObjectId, Segment, StackEnd, UserFrame, UserRegisters};
use unwind::{Limits, Unwinder, extract};

/// Compiles `tests/fixtures/SOURCE`; None where there is no such compiler.
pub fn compile(compiler: &str, source: &str, flags: &[&str], dir: &Path) -> Option<PathBuf> {
    let out = dir.join(format!("{source}{}", flags.join("")).replace(['/', '=', ','], "_"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(source);
    let made = Command::new(compiler).args(flags).arg("-o").arg(&out).arg(&path).status();
    match made {
        Ok(status) => {
            assert!(status.success(), "{compiler} {source} {flags:?}");
            Some(out)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => panic!("{compiler}: {e}"),
    }
}

/// A traced child; killed when dropped.
pub struct Traced {
    pub pid: Pid,
    /// The thread that stopped.
    pub tid: Pid,
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        // A process is gone when the last of its traced threads is waited for.
        while waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).is_ok() {}
    }
}

impl Traced {
    /// Starts a program and stops it where it stops itself, by SIGILL or SIGTRAP; other signals are delivered.
    pub fn run(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).env("LD_BIND_NOW", "").stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: `ptrace` is a plain system call, and the child has only this thread.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
        let child = command.spawn().expect("the fixture starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut traced = Self { pid, tid: pid };
        assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(_, Signal::SIGTRAP))), "stopped by exec");
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACECLONE | ptrace::Options::PTRACE_O_EXITKILL).unwrap();
        traced.go_on();
        traced
    }

    /// Runs on to the next stop.
    pub fn go_on(&mut self) {
        ptrace::cont(self.tid, None).unwrap();
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap() {
                WaitStatus::Stopped(tid, Signal::SIGILL | Signal::SIGTRAP) => {
                    self.tid = tid;
                    return;
                }
                WaitStatus::Stopped(tid, Signal::SIGSTOP) | WaitStatus::PtraceEvent(tid, _, _) => {
                    ptrace::cont(tid, None).unwrap();
                }
                WaitStatus::Stopped(tid, signal) => ptrace::cont(tid, Some(signal)).unwrap(),
                other => panic!("the fixture did not stop: {other:?}"),
            }
        }
    }

    /// One instruction; whether it now stands at a breakpoint of its own.
    pub fn single_step(&self) -> WaitStatus {
        ptrace::step(self.tid, None).unwrap();
        waitpid(self.tid, Some(WaitPidFlag::__WALL)).unwrap()
    }

    #[cfg(target_arch = "x86_64")]
    pub fn registers(&self) -> UserRegisters {
        let r = ptrace::getregs(self.tid).unwrap();
        UserRegisters { pc: r.rip, sp: r.rsp, fp: r.rbp, lr: 0 }
    }

    /// Memory from an address up, as far as it is mapped.
    pub fn memory(&self, from: u64, bytes: usize) -> Vec<u8> {
        let mut file = fs::File::open(format!("/proc/{}/mem", self.pid)).unwrap();
        file.seek(SeekFrom::Start(from)).unwrap();
        let mut out = vec![0; bytes];
        let mut at = 0;
        while at < bytes {
            match file.read(&mut out[at..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => at += n,
            }
        }
        out.truncate(at);
        out
    }
}

/// A process as the unwinder sees it, and the names of its functions.
pub struct Process {
    pub maps: Vec<MapEntry>,
    pub unwinder: Unwinder,
    pub names: BTreeMap<ObjectId, BTreeMap<u64, (u64, String)>>,
    pub segments: BTreeMap<ObjectId, Vec<Segment>>,
    pub files: BTreeMap<ObjectId, Vec<u8>>,
}

impl Process {
    /// The executable mappings' ranges and offsets, to see whether they changed.
    pub fn maps_of(traced: &Traced) -> Vec<MapEntry> {
        let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
        let text = fs::read_to_string(format!("/proc/{}/maps", traced.pid)).unwrap();
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (range, flags, offset) = (words.next()?, words.next()?, words.next()?);
            let (start, end) = range.split_once('-')?;
            let entry = MapEntry { start: hex(start), end: hex(end), file_offset: hex(offset), object: None };
            flags.contains('x').then_some(entry)
        };
        text.lines().filter_map(entry).collect()
    }

    pub fn of(traced: &Traced) -> Self {
        let mut process = Self {
            maps: Vec::new(),
            unwinder: Unwinder::new(),
            names: BTreeMap::new(),
            segments: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        let mut known: BTreeMap<String, ObjectId> = BTreeMap::new();
        for line in fs::read_to_string(format!("/proc/{}/maps", traced.pid)).unwrap().lines() {
            let mut words = line.split_whitespace();
            let (range, flags, offset) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let path = words.nth(2).unwrap_or("");
            if !flags.contains('x') {
                continue;
            }
            let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let (start, end) = (hex(start), hex(end));
            let size = usize::try_from(end - start).unwrap();
            let bytes = match path {
                "[vdso]" => traced.memory(start, size),
                p if p.starts_with('/') => fs::read(p).unwrap(),
                _ => {
                    process.maps.push(MapEntry { start, end, file_offset: 0, object: None });
                    continue;
                }
            };
            let next = ObjectId(known.len() as u64 + 1);
            let object = *known.entry(path.to_owned()).or_insert(next);
            if object == next {
                let blob = extract(bytes.as_slice(), &Limits::default()).unwrap();
                process.unwinder.load(object, blob).unwrap();
                process.names.insert(object, symbols(&bytes));
                process.segments.insert(object, segments(&bytes));
                process.files.insert(object, bytes);
            }
            process.maps.push(MapEntry { start, end, file_offset: hex(offset), object: Some(object) });
        }
        process
    }

    pub fn unwind(&mut self, traced: &Traced, bytes: usize) -> (Vec<UserFrame>, StackEnd) {
        let registers = traced.registers();
        let stack = traced.memory(registers.sp, bytes);
        let mut frames = Vec::new();
        let end = self.unwinder.unwind(&self.maps, &registers, &stack, &mut frames);
        (frames, end)
    }

    /// The frame of an address in the process.
    pub fn place(&self, lookup: u64) -> Option<UserFrame> {
        let map = self.maps.iter().find(|m| m.start <= lookup && lookup < m.end)?;
        let offset = FileOffset(map.file_offset + (lookup - map.start));
        let address = self.segments[&map.object?].iter().find_map(|s| s.elf_address_of(offset))?;
        Some(UserFrame::Object { object: map.object?, address: address.0 })
    }

    /// The frames that `framehop` finds on its own: a module for each file, where the process has it.
    pub fn framehop(&self, traced: &Traced, bytes: usize) -> Vec<UserFrame> {
        use framehop::Unwinder as _;
        let mut unwinder: framehop::x86_64::UnwinderX86_64<Vec<u8>> = framehop::x86_64::UnwinderX86_64::new();
        for map in &self.maps {
            let Some(object) = map.object else { continue };
            let file = object::File::parse(self.files[&object].as_slice()).unwrap();
            let Some(segment) =
                self.segments[&object].iter().find_map(|s| s.elf_address_of(FileOffset(map.file_offset)))
            else {
                continue;
            };
            let range = |name| file.section_by_name(name).map(|s| s.address()..s.address() + s.size());
            let data = |name| file.section_by_name(name).map(|s| s.data().unwrap().to_vec());
            let sections = framehop::ExplicitModuleSectionInfo {
                text_svma: range(".text"),
                eh_frame_svma: range(".eh_frame"),
                eh_frame: data(".eh_frame"),
                eh_frame_hdr_svma: range(".eh_frame_hdr"),
                eh_frame_hdr: data(".eh_frame_hdr"),
                ..framehop::ExplicitModuleSectionInfo::default()
            };
            let base = map.start - segment.0;
            unwinder.add_module(framehop::Module::new(String::new(), map.start..map.end, base, sections));
        }
        let registers = traced.registers();
        let stack = traced.memory(registers.sp, bytes);
        let mut read = |address: u64| {
            let at = usize::try_from(address.checked_sub(registers.sp).ok_or(())?).map_err(drop)?;
            stack.get(at..at + 8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).ok_or(())
        };
        let mut cache = framehop::x86_64::CacheX86_64::default();
        let regs = framehop::x86_64::UnwindRegsX86_64::new(registers.pc, registers.sp, registers.fp);
        let mut frames = unwinder.iter_frames(registers.pc, regs, &mut cache, &mut read);
        let mut out = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            match self.place(frame.address_for_lookup()) {
                Some(place) => out.push(place),
                None => break,
            }
        }
        out
    }

    /// The functions' names, leaf first; `?` where the file has none.
    pub fn names(&self, frames: &[UserFrame]) -> Vec<String> {
        let name = |frame: &UserFrame| match *frame {
            UserFrame::Object { object, address } => {
                let symbol = self.names[&object].range(..=address).next_back();
                symbol.filter(|(start, (size, _))| address - *start < *size).map(|(_, (_, name))| name.clone())
            }
            UserFrame::Unmapped { .. } => None,
        };
        frames.iter().map(|f| name(f).unwrap_or_else(|| "?".to_owned())).collect()
    }
}

fn symbols(bytes: &[u8]) -> BTreeMap<u64, (u64, String)> {
    let file = object::File::parse(bytes).unwrap();
    let mut out = BTreeMap::new();
    for symbol in file.dynamic_symbols().chain(file.symbols()) {
        // Assembly has no sizes; what is named here is short.
        let size = if symbol.size() == 0 { 64 } else { symbol.size() };
        if symbol.is_definition() && symbol.kind() == object::SymbolKind::Text {
            out.insert(symbol.address(), (size, symbol.name().unwrap_or("?").to_owned()));
        }
    }
    out
}

/// The executable load segments.
fn segments(bytes: &[u8]) -> Vec<Segment> {
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(bytes).unwrap();
    let endian = object::LittleEndian;
    let programs = header.program_headers(endian, bytes).unwrap().iter();
    let loads = programs.filter(|p| p.p_type(endian) == object::elf::PT_LOAD && p.p_flags(endian).0 & 1 != 0);
    let segment = |p: &object::elf::ProgramHeader64<object::LittleEndian>| Segment {
        elf_address: p.p_vaddr(endian),
        file_offset: p.p_offset(endian),
        file_bytes: p.p_filesz(endian),
        executable: true,
    };
    loads.map(segment).collect()
}
