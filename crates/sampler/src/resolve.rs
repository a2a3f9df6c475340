//! From a sample and its process to what unwinding and aggregation need: the owner, and the mappings with their files.
//!
//! Opening a file and compiling its tables may take a tenth of a second, and a process maps dozens that its stacks
//! never touch. So a file is opened when an address of it first lies in a snapshot: a return address comes from there
//! or from a register, and from nowhere else.
//!
//! **In**: [`Process`]es, sample heads, snapshots (hostile: an address in it may at most cause a file to be opened that
//! the process maps). **Out**: [`Owner`]s, sorted [`MapEntry`]s. **Units**: addresses of the process. **Limits**: what
//! was not used for two windows is forgotten; within them there are at most as many owners and files as samples, and
//! [`MAX_ENTRIES`] mappings, past which all of them are looked at anew. [`OPEN_BUDGET`] for each process and window: past
//! it files stay unopened until the next, and stacks end at them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use profile::{FileOffset, Frame, MapEntry, ObjectId, ObjectInfo, Owner, Place, ProcessKey, UserAddress};
use rustc_hash::FxHashMap;
use sampler_abi::{FLAG_KERNEL_THREAD, SampleHead};

use crate::comm::Comm;
use crate::process::{FileKind, MapFile, Process};
use crate::source::ObjectSource;

/// Time for opening one process's files in one window. A process may map thousands and put an address of each on its
/// stack; the others' samples must not wait for that.
const OPEN_BUDGET: Duration = Duration::from_secs(2);
/// Mappings of all processes together: some 12 MiB. A process that changes its mappings between any two of its samples
/// has another set for each of them.
const MAX_ENTRIES: usize = 1 << 18;
/// A name for what has none.
const UNKNOWN: &str = "[unknown]";

/// Signed return addresses carry their signature above the address on 64-bit ARM.
const ADDRESS_MASK: u64 = if cfg!(target_arch = "aarch64") { 0x0000_ffff_ffff_ffff } else { u64::MAX };

/// How long frames may be believed for the addresses that they were made of, in the same mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lasting {
    /// A file was left unopened for now.
    No,
    /// A file could not be opened: until the window is closed.
    ThisWindow,
    /// As long as the mappings are known here ([`Resolver::generation`], [`Resolver::keep`]).
    Always,
}

/// Sorted mappings with their files, as the worker takes them.
pub(crate) type Entries = Arc<Vec<MapEntry>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct OwnerKey {
    process: ProcessKey,
    generation: u64,
    tid: u32,
    comm: Comm,
    cgroup_id: u64,
    /// What was not known at first may be later.
    has_place: bool,
    has_declared: bool,
}

#[derive(Debug)]
struct Resolved {
    entries: Entries,
    /// Places in `entries` whose file was not opened yet.
    unopened: Vec<usize>,
    /// Of those: who could not open it last, and when. The process may just have ended, and its relatives have the same mappings.
    failed: FxHashMap<usize, (u32, u64)>,
    used_at: u64,
}

/// Owners and mappings that were asked for lately.
#[derive(Debug)]
pub(crate) struct Resolver<O> {
    objects: O,
    per_thread: bool,
    maps: FxHashMap<u64, Resolved>,
    /// The sum over `maps`.
    entries: usize,
    owners: FxHashMap<OwnerKey, (Arc<Owner>, u64)>,
    infos: FxHashMap<ObjectId, (Arc<ObjectInfo>, u64)>,
    /// What opening took in this window, by process.
    spent: FxHashMap<u32, Duration>,
    budget: Duration,
    deferred: u64,
    epoch: u64,
    /// Times that all mappings were forgotten.
    generation: u64,
}

impl<O: ObjectSource> Resolver<O> {
    /// Knows nothing yet.
    pub(crate) fn new(objects: O, per_thread: bool) -> Self {
        Self {
            objects,
            per_thread,
            maps: FxHashMap::default(),
            entries: 0,
            owners: FxHashMap::default(),
            infos: FxHashMap::default(),
            spent: FxHashMap::default(),
            budget: OPEN_BUDGET,
            deferred: 0,
            epoch: 0,
            generation: 0,
        }
    }

    /// The room behind.
    pub(crate) fn objects(&self) -> &O {
        &self.objects
    }

    /// Whom a sample belongs to. `process` is none for kernel threads, and where the table is full.
    /// `place` is that of the sample's cgroup.
    pub(crate) fn owner(
        &mut self,
        head: &SampleHead,
        process: Option<&Process>,
        place: Option<&Arc<Place>>,
    ) -> Arc<Owner> {
        let declared = process.and_then(|p| p.environment.declared());
        let comm = Comm::from_bytes(&head.comm);
        let leader_start_mono_ns = process.map_or(head.leader_start_mono_ns, |p| p.start.mono_ns());
        let key = OwnerKey {
            process: ProcessKey { tgid: head.tgid, leader_start_mono_ns },
            generation: process.map_or(0, |p| p.generation),
            tid: if self.per_thread { head.tid } else { 0 },
            comm,
            cgroup_id: head.cgroup_id,
            has_place: place.is_some(),
            has_declared: declared.is_some(),
        };
        let epoch = self.epoch;
        if let Some((owner, used_at)) = self.owners.get_mut(&key) {
            *used_at = epoch;
            // Its file must outlive it here.
            if let Some((_, used_at)) = owner.executable.and_then(|id| self.infos.get_mut(&id)) {
                *used_at = epoch;
            }
            return Arc::clone(owner);
        }
        let executable = process.and_then(|p| Some((p, p.executable.as_ref()?)));
        let object = executable.and_then(|(process, file)| self.executable(process, file));
        let names = [
            executable.map_or("", |(_, file)| file.file_name()).to_owned(),
            process.map_or_else(String::new, |p| p.comm.text()),
            comm.text(),
            UNKNOWN.to_owned(),
        ];
        let owner = Arc::new(Owner {
            process: key.process,
            tid: self.per_thread.then_some(head.tid),
            comm: comm.text().into(),
            process_name: names.into_iter().find(|n| !n.is_empty()).unwrap_or_default().into(),
            executable_path: executable.map_or_else(|| Arc::from(""), |(_, file)| Arc::clone(&file.name)),
            executable: object.map(|info| info.id),
            cgroup_id: head.cgroup_id,
            place: place.map(Arc::clone),
            declared: declared.map(Arc::clone),
            kernel_thread: head.flags & FLAG_KERNEL_THREAD != 0,
            identity: None,
        });
        self.owners.insert(key, (Arc::clone(&owner), epoch));
        owner
    }

    /// The mappings of a process, with the files opened that the sample may lead through.
    pub(crate) fn mappings(&mut self, process: &Process, head: &SampleHead, snapshot: &[u8]) -> Entries {
        let Some(resolved) = self.resolved(process) else { return Entries::default() };
        let mut wanted = wanted(resolved, head, snapshot);
        let epoch = self.epoch;
        for index in wanted.drain(..) {
            self.open(process, index, epoch);
        }
        self.maps.get(&process.maps.serial()).map(|resolved| Arc::clone(&resolved.entries)).unwrap_or_default()
    }

    /// The frames of lookup addresses, as the worker's answers become them. Files that they lie in are opened.
    pub(crate) fn frames(&mut self, process: &Process, addresses: &[u64], frames: &mut Vec<Frame>) -> Lasting {
        let epoch = self.epoch;
        let mut lasting = Lasting::Always;
        for &address in addresses {
            let Some(resolved) = self.resolved(process) else { return Lasting::No };
            let after = resolved.entries.partition_point(|e| e.start <= address);
            let index = after.checked_sub(1).filter(|&i| resolved.entries.get(i).is_some_and(|e| address < e.end));
            if let Some(index) = index
                && resolved.unopened.binary_search(&index).is_ok()
            {
                lasting = lasting.min(self.open(process, index, epoch));
            }
            frames.push(self.frame(process, index, address));
        }
        lasting
    }

    fn frame(&self, process: &Process, index: Option<usize>, address: u64) -> Frame {
        let place = || {
            let entry = self.maps.get(&process.maps.serial())?.entries.get(index?)?;
            let object = entry.object?;
            let offset = FileOffset(entry.file_offset.checked_add(address.checked_sub(entry.start)?)?);
            Some(Frame::Object { object, address: self.info(object)?.elf_address_of(offset)? })
        };
        place().unwrap_or_else(|| {
            let mapping = index.and_then(|index| process.maps.list().get(index));
            let mapping = mapping.map_or_else(|| Arc::from(""), |m| Arc::clone(&m.file.name));
            Frame::Unmapped { mapping, address: UserAddress(address) }
        })
    }

    /// What is known of the process's mappings; it counts as used.
    fn resolved(&mut self, process: &Process) -> Option<&mut Resolved> {
        let serial = process.maps.serial();
        if !self.maps.contains_key(&serial) {
            let resolved = self.first_look(process);
            self.entries = self.entries.saturating_add(resolved.entries.len());
            if self.entries > MAX_ENTRIES {
                self.maps.clear();
                self.generation += 1;
                self.entries = resolved.entries.len();
            }
            self.maps.insert(serial, resolved);
        }
        let epoch = self.epoch;
        let resolved = self.maps.get_mut(&serial)?;
        resolved.used_at = epoch;
        Some(resolved)
    }

    /// Opens the file of one mapping, which was not opened yet. How long what is known of it then may be believed.
    fn open(&mut self, process: &Process, index: usize, epoch: u64) -> Lasting {
        let Some(resolved) = self.maps.get_mut(&process.maps.serial()) else { return Lasting::No };
        let Some(mapping) = process.maps.list().get(index) else { return Lasting::No };
        if resolved.failed.get(&index) == Some(&(process.tgid, epoch)) {
            return Lasting::ThisWindow;
        }
        if resolved.unopened.binary_search(&index).is_err() {
            // With another of its file's mappings.
            return Lasting::Always;
        }
        let spent = self.spent.entry(process.tgid).or_default();
        if *spent > self.budget {
            self.deferred += 1;
            return Lasting::No;
        }
        let began = Instant::now();
        let info = self.objects.object(&mapping.file.mapped, process.tgid, mapping.start..mapping.end);
        *spent += began.elapsed();
        if !info.readable {
            resolved.failed.insert(index, (process.tgid, epoch));
            self.infos.insert(info.id, (info, epoch));
            return Lasting::ThisWindow;
        }
        let entries = Arc::make_mut(&mut resolved.entries);
        // One file may have several executable mappings.
        resolved.unopened.retain(|&i| {
            let same = process.maps.list().get(i).is_some_and(|m| Arc::ptr_eq(&m.file, &mapping.file));
            if same && let Some(entry) = entries.get_mut(i) {
                entry.object = Some(info.id);
            }
            !same
        });
        self.infos.insert(info.id, (info, epoch));
        Lasting::Always
    }

    /// A file that was resolved for some mapping or owner.
    pub(crate) fn info(&self, object: ObjectId) -> Option<&Arc<ObjectInfo>> {
        self.infos.get(&object).map(|(info, _)| info)
    }

    /// Files left unopened for now, counted once for each sample that wanted one.
    pub(crate) fn deferred(&self) -> u64 {
        self.deferred
    }

    /// Changes when frames that were made before are to be made again: their mappings were forgotten before their time.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Frames of a set of mappings of this number were used in this window, without asking here.
    pub(crate) fn keep(&mut self, serial: u64) {
        let epoch = self.epoch;
        if let Some(resolved) = self.maps.get_mut(&serial) {
            resolved.used_at = epoch;
        }
    }

    /// A window was closed: forgets what was not used for two.
    pub(crate) fn turn(&mut self) {
        self.epoch += 1;
        self.spent.clear();
        let recent = self.epoch.saturating_sub(2);
        self.maps.retain(|_, resolved| resolved.used_at >= recent);
        self.entries = self.maps.values().map(|resolved| resolved.entries.len()).sum();
        self.owners.retain(|_, (_, used_at)| *used_at >= recent);
        let epoch = self.epoch;
        for object in self.maps.values().flat_map(|r| r.entries.iter()).filter_map(|e| e.object) {
            if let Some((_, used_at)) = self.infos.get_mut(&object) {
                *used_at = epoch;
            }
        }
        self.infos.retain(|_, (_, used_at)| *used_at >= recent);
    }

    /// The mappings, with no file opened. A file that is known is looked at again too: it may have changed since, and a
    /// new program must not get the names of the old content.
    fn first_look(&mut self, process: &Process) -> Resolved {
        let mut unopened = Vec::new();
        let mut entries = Vec::with_capacity(process.maps.list().len());
        for (index, mapping) in process.maps.list().iter().enumerate() {
            let is_vdso = mapping.file.kind == FileKind::Vdso;
            if mapping.file.kind == FileKind::File {
                unopened.push(index);
            }
            let info = if is_vdso { self.objects.vdso() } else { None };
            let file_offset = if is_vdso { 0 } else { mapping.offset };
            let object = info.as_ref().filter(|i| i.readable).map(|i| i.id);
            entries.push(MapEntry { start: mapping.start, end: mapping.end, file_offset, object });
            if let Some(info) = info {
                self.infos.insert(info.id, (info, self.epoch));
            }
        }
        Resolved { entries: Arc::new(entries), unopened, failed: FxHashMap::default(), used_at: self.epoch }
    }

    fn executable(&mut self, process: &Process, file: &Arc<MapFile>) -> Option<Arc<ObjectInfo>> {
        let mapping = process.maps.list().iter().find(|m| m.file.same_file(file));
        let info = match mapping {
            _ if file.kind != FileKind::File => None,
            Some(m) => Some(self.objects.object(&m.file.mapped, process.tgid, m.start..m.end)),
            // It has unmapped itself: nothing of it can be looked at any more.
            None => self.objects.known(&file.mapped),
        }?;
        self.infos.insert(info.id, (Arc::clone(&info), self.epoch));
        Some(info)
    }
}

/// The files not opened yet that a register or a word of the snapshot points into: one mapping for each.
fn wanted(resolved: &Resolved, head: &SampleHead, snapshot: &[u8]) -> Vec<usize> {
    let mut wanted = Vec::new();
    let bounds = |&i: &usize| resolved.entries.get(i).map(|e| (i, e.start, e.end));
    // Sorted, as the mappings are.
    let ranges: Vec<_> = resolved.unopened.iter().filter_map(bounds).collect();
    let (Some(&(_, low, _)), Some(&(_, _, high))) = (ranges.first(), ranges.last()) else { return wanted };
    // Words are aligned in the process's memory, not in the snapshot.
    let skip = usize::try_from(head.user_sp.wrapping_neg() % 8).unwrap_or(0);
    let (words, _) = snapshot.get(skip..).unwrap_or_default().as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    for word in [head.user_pc, head.user_lr].into_iter().chain(words) {
        let address = word & ADDRESS_MASK;
        if address < low || address > high {
            continue;
        }
        // A return address may be a mapping's end, and so the next one's start: its call is the last instruction.
        let after = ranges.partition_point(|&(_, start, _)| start <= address);
        for &(index, _, end) in ranges.get(after.saturating_sub(2)..after).unwrap_or_default() {
            if address <= end && !wanted.contains(&index) {
                wanted.push(index);
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
