//! From a window of stacks without names to a profile.
//!
//! **In**: [`Window`]s (from the sampler: trusted in shape, hostile in texts), names from a [`NameSource`] (hostile).
//! **Out**: [`Profile`]s that pass [`Profile::check`]. **Units**: as in `profile`. **Limits**: [`NamerLimits`]; the
//! rest is as large as the window, up to [`MAX_WINDOW_LOCATIONS`] distinct frames and [`MAX_WINDOW_TEXT_BYTES`] of new
//! names; past the first, user frames of one file are one frame without an address; past the second, names are short.
//! Each distinct frame of a window is named once, and a function's name is asked for in one window as long as the
//! cache holds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use profile::named::{LocationKind, Mapping};
use profile::stats::NamingStats;
use profile::{
    BuildId, ElfAddress, Frame, ObjectId, ObjectInfo, Owner, Profile, StackEnd, SymbolName, UserAddress, Window,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::KernelSymbols;
use crate::cache::{Cache, Named};
use crate::tables::Tables;
use crate::text::{MAX_NAME_BYTES, shown};

/// Addresses of one question.
const MAX_QUESTION: usize = 4096;
/// Bytes of the file's name in `file+0x10`.
const MAX_FILE_NAME_BYTES: usize = 512;

/// Distinct frames of one window that are told apart. Ordinary windows have some thousand; a hostile process that makes
/// up its stacks has a million.
const MAX_WINDOW_LOCATIONS: usize = 1 << 17;
/// Bytes of names that one window brings before further ones are cut to [`SHORT_NAME_BYTES`].
const MAX_WINDOW_TEXT_BYTES: usize = 32 << 20;
const SHORT_NAME_BYTES: usize = 64;

/// Where the names of addresses in files come from.
pub trait NameSource {
    /// One answer per address, in their order; `None` where no name is known.
    fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>>;
}

impl NameSource for objects::Objects {
    fn names(&self, object: ObjectId, addresses: &[ElfAddress]) -> Vec<Option<SymbolName>> {
        Self::names(self, object, addresses)
    }
}

/// Bounds of a [`Namer`].
#[derive(Clone, Copy, Debug)]
pub struct NamerLimits {
    /// Names in the cache: some 80 bytes each, and the texts.
    pub cached_names: usize,
}

impl Default for NamerLimits {
    fn default() -> Self {
        Self { cached_names: 1 << 16 }
    }
}

/// A namer's counters, readable from any thread.
#[derive(Debug, Default)]
pub struct NamerCounters {
    named_frames: AtomicU64,
    unnamed_frames: AtomicU64,
    cached_names: AtomicU64,
    kernel_symbols: AtomicU64,
}

impl NamerCounters {
    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> NamingStats {
        NamingStats {
            named_frames: self.named_frames.load(Ordering::Relaxed),
            unnamed_frames: self.unnamed_frames.load(Ordering::Relaxed),
            cached_names: self.cached_names.load(Ordering::Relaxed),
            kernel_symbols: self.kernel_symbols.load(Ordering::Relaxed),
        }
    }
}

/// Names windows, one after the other.
pub struct Namer {
    kernel: KernelSymbols,
    cache: Cache,
    counters: Arc<NamerCounters>,
}

impl Namer {
    /// Has an empty cache.
    #[must_use]
    pub fn new(kernel: KernelSymbols, limits: NamerLimits) -> Self {
        let cache = Cache::new(limits.cached_names);
        let mut namer = Self { kernel: KernelSymbols::default(), cache, counters: Arc::default() };
        namer.replace_kernel(kernel);
        namer
    }

    /// Takes the kernel's symbols anew, after modules were loaded.
    pub fn replace_kernel(&mut self, kernel: KernelSymbols) {
        self.counters.kernel_symbols.store(kernel.len() as u64, Ordering::Relaxed);
        self.kernel = kernel;
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<NamerCounters> {
        Arc::clone(&self.counters)
    }

    /// Names a window. The profile passes [`Profile::check`] and has all of the window's samples.
    pub fn name(&mut self, window: &Window, source: &dyn NameSource) -> Profile {
        self.cache.next_window();
        let names = self.names_of_files(window, source);
        let mut naming = Naming {
            kernel: &self.kernel,
            names,
            window,
            tables: Tables::new(),
            mappings: FxHashMap::default(),
            frames: FxHashMap::default(),
            named: 0,
            unnamed: 0,
        };
        naming.owners();
        naming.entries();
        self.counters.named_frames.fetch_add(naming.named, Ordering::Relaxed);
        self.counters.unnamed_frames.fetch_add(naming.unnamed, Ordering::Relaxed);
        self.counters.cached_names.store(self.cache.len() as u64, Ordering::Relaxed);
        naming.tables.into_profile(window.span, window.period_ns)
    }

    /// The name of every address of a file in the window; asks for those that the cache does not have, object by
    /// object.
    fn names_of_files(&mut self, window: &Window, source: &dyn NameSource) -> FxHashMap<(ObjectId, ElfAddress), Named> {
        let mut seen = FxHashSet::default();
        let mut names = FxHashMap::default();
        let mut questions: BTreeMap<ObjectId, Vec<ElfAddress>> = BTreeMap::new();
        for frame in window.entries.iter().flat_map(|e| e.stack.iter()) {
            let Frame::Object { object, address } = *frame else { continue };
            let key = (object, address);
            if seen.len() >= MAX_WINDOW_LOCATIONS {
                break;
            }
            if !seen.insert(key) {
                continue;
            }
            match self.cache.get(key) {
                Some(Some(named)) => {
                    names.insert(key, named);
                }
                Some(None) => {}
                None if window.objects.get(&object).is_some_and(|info| info.readable) => {
                    questions.entry(object).or_default().push(address);
                }
                None => {}
            }
        }
        let mut text_bytes = 0_usize;
        for (object, mut addresses) in questions {
            addresses.sort_unstable();
            for addresses in addresses.chunks(MAX_QUESTION) {
                let mut answers = source.names(object, addresses).into_iter();
                for &address in addresses {
                    let answer = answers.next().flatten().filter(|a| !a.name.is_empty());
                    let longest = if text_bytes < MAX_WINDOW_TEXT_BYTES { MAX_NAME_BYTES } else { SHORT_NAME_BYTES };
                    let text = answer.as_ref().map(|a| {
                        let name = shown(&a.name, longest);
                        let system = shown(&a.system_name, longest);
                        text_bytes = text_bytes.saturating_add(name.len()).saturating_add(system.len());
                        let system = if system.is_empty() { name.clone() } else { system };
                        (name, system)
                    });
                    let text = text.as_ref().map(|(name, system)| (&**name, &**system));
                    let covered = answer.as_ref().map_or(0..0, |a| a.addresses.clone());
                    let only = address.0..address.0.saturating_add(1);
                    let covered = if covered.contains(&address.0) { covered } else { only };
                    if let Some(named) = self.cache.put(object, covered, text) {
                        names.insert((object, address), named);
                    }
                }
            }
        }
        names
    }
}

/// One window on its way.
struct Naming<'a> {
    kernel: &'a KernelSymbols,
    names: FxHashMap<(ObjectId, ElfAddress), Named>,
    window: &'a Window,
    tables: Tables,
    mappings: FxHashMap<ObjectId, u32>,
    frames: FxHashMap<&'a Frame, u32>,
    named: u64,
    unnamed: u64,
}

impl<'a> Naming<'a> {
    fn owners(&mut self) {
        for owner in &self.window.owners {
            let mapping = owner.executable.and_then(|object| self.mapping(object));
            self.tables.owners.push(Arc::clone(owner));
            self.tables.owner_mappings.push(mapping);
        }
    }

    fn entries(&mut self) {
        let mut locations = Vec::new();
        for entry in &self.window.entries {
            locations.clear();
            for frame in entry.stack.iter() {
                locations.push(self.frame(frame));
            }
            if locations.is_empty() {
                locations.push(self.cut(StackEnd::NoRegisters));
            }
            let stack = self.tables.stack(&locations);
            let owner = if (entry.owner as usize) < self.window.owners.len() { entry.owner } else { self.nobody() };
            self.tables.entry(owner, stack, entry.count, &entry.times_unix_ns);
        }
    }

    /// An owner for an entry that names none: its samples count all the same.
    fn nobody(&mut self) -> u32 {
        let index = self.window.owners.len();
        if self.tables.owners.len() == index {
            self.tables.owners.push(Arc::new(Owner { process_name: Arc::from("[unknown]"), ..Owner::default() }));
            self.tables.owner_mappings.push(None);
        }
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    fn frame(&mut self, frame: &'a Frame) -> u32 {
        if let Some(&known) = self.frames.get(frame) {
            return known;
        }
        if self.frames.len() >= MAX_WINDOW_LOCATIONS {
            match frame {
                Frame::Object { object, .. } => return self.any_of_file(*object),
                Frame::Unmapped { mapping, .. } => return self.any_unmapped(mapping),
                // The kernel has only so many functions, and there are few reasons.
                Frame::Kernel(_) | Frame::Cut(_) => {}
            }
        }
        let location = match frame {
            Frame::Kernel(address) => self.kernel_frame(*address),
            Frame::Object { object, address } => self.object_frame(*object, *address),
            Frame::Unmapped { mapping, address } => self.unmapped_frame(mapping, *address),
            Frame::Cut(end) => self.cut(*end),
        };
        self.frames.insert(frame, location);
        location
    }

    fn kernel_frame(&mut self, address: u64) -> u32 {
        let symbol = self.kernel.lookup(address);
        let path = symbol.and_then(|s| s.module).map_or_else(|| "[kernel]".to_owned(), |m| format!("[{m}]"));
        let name: Arc<str> = symbol.map_or_else(|| format!("[kernel]+0x{address:x}").into(), |s| s.name.into());
        let path = self.tables.text(&path);
        let build_id = BuildId::default();
        let mapping = Mapping { path, build_id, memory_start: 0, memory_limit: 0, file_offset: 0, kernel: true };
        let mapping = self.tables.mapping(&mapping);
        self.put(
            Some(mapping),
            address,
            &Named { system_name: Arc::clone(&name), name },
            LocationKind::Kernel,
            symbol.is_some(),
        )
    }

    fn object_frame(&mut self, object: ObjectId, address: ElfAddress) -> u32 {
        let mapping = self.mapping(object);
        if let Some(named) = self.names.get(&(object, address)).cloned() {
            return self.put(mapping, address.0, &named, LocationKind::Native, true);
        }
        let file = self.window.objects.get(&object).map_or("[unknown]", |info| info.file_name());
        self.unnamed(mapping, file, address.0)
    }

    fn unmapped_frame(&mut self, mapping: &str, address: UserAddress) -> u32 {
        self.unnamed(None, unmapped_name(mapping), address.0)
    }

    /// The one location of all frames of a file that are too many to be told apart.
    fn any_of_file(&mut self, object: ObjectId) -> u32 {
        let mapping = self.mapping(object);
        let file = self.window.objects.get(&object).map_or("[unknown]", |info| info.file_name());
        let name: Arc<str> = format!("{}+?", shown(file, MAX_FILE_NAME_BYTES)).into();
        self.put(mapping, 0, &Named { system_name: Arc::clone(&name), name }, LocationKind::Native, false)
    }

    /// The same for frames in no file.
    fn any_unmapped(&mut self, mapping: &str) -> u32 {
        let name: Arc<str> = format!("{}+?", shown(unmapped_name(mapping), MAX_FILE_NAME_BYTES)).into();
        self.put(None, 0, &Named { system_name: Arc::clone(&name), name }, LocationKind::Native, false)
    }

    fn unnamed(&mut self, mapping: Option<u32>, file: &str, address: u64) -> u32 {
        let name: Arc<str> = format!("{}+0x{address:x}", shown(file, MAX_FILE_NAME_BYTES)).into();
        let named = Named { system_name: Arc::clone(&name), name };
        self.put(mapping, address, &named, LocationKind::Native, false)
    }

    fn cut(&mut self, end: StackEnd) -> u32 {
        let name: Arc<str> = format!("[cut: {}]", end.label()).into();
        let function = self.tables.function(&name, &name);
        self.tables.location(None, 0, function, (LocationKind::Cut, false))
    }

    fn put(&mut self, mapping: Option<u32>, address: u64, name: &Named, kind: LocationKind, named: bool) -> u32 {
        let counter = if named { &mut self.named } else { &mut self.unnamed };
        *counter = counter.saturating_add(1);
        let function = self.tables.function(&name.name, &name.system_name);
        self.tables.location(mapping, address, function, (kind, named))
    }

    fn mapping(&mut self, object: ObjectId) -> Option<u32> {
        if let Some(&known) = self.mappings.get(&object) {
            return Some(known);
        }
        let info = self.window.objects.get(&object)?;
        let path = if info.path.is_empty() { info.file_name() } else { &info.path };
        let path = self.tables.text(path);
        let mapping = self.tables.mapping(&mapping_of(info, path));
        self.mappings.insert(object, mapping);
        Some(mapping)
    }
}

/// What stands for the file where a frame is in none.
fn unmapped_name(mapping: &str) -> &str {
    let name = mapping.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || mapping == "//anon" { "[anon]" } else { name }
}

fn mapping_of(info: &ObjectInfo, path: u32) -> Mapping {
    let executable = || info.segments.iter().filter(|s| s.executable && s.file_bytes > 0);
    let first = executable().min_by_key(|s| s.elf_address);
    let limit = executable().filter_map(|s| s.elf_address.checked_add(s.file_bytes)).max();
    Mapping {
        path,
        build_id: info.build_id.clone(),
        memory_start: first.map_or(0, |s| s.elf_address),
        memory_limit: limit.unwrap_or(0),
        file_offset: first.map_or(0, |s| s.file_offset),
        kernel: false,
    }
}
