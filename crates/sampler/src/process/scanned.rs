//! What the table takes from /proc.

use std::sync::Arc;

use objects::MappedFile;
use rustc_hash::FxHashSet;

use super::{MapFile, MapSet, Mapping, ProcessTable, Start};
use crate::declared::Environment;
use crate::proc_scan::ScannedProcess;
use crate::sideband::MapRecord;

impl ProcessTable {
    /// Takes what a second look at /proc says of a process, for a sample of now. Nothing is taken where the process
    /// runs another program there than here: then it has executed since, and the record is on its way. True where
    /// the mappings changed.
    pub(crate) fn reread(&mut self, scanned: &ScannedProcess) -> bool {
        let executable = scanned.executable.as_ref().map(|file| self.files.intern(file));
        let Some(process) = self.chains.get(&scanned.tgid).and_then(|chain| chain.last()) else { return false };
        let other_program = match (&process.executable, &executable) {
            (Some(known), Some(read)) => !known.same_file(read),
            _ => false,
        };
        if other_program || !process.start.matches_scan(scanned.start_mono_ns, scanned.latest_start_mono_ns) {
            return false;
        }
        let serial = process.maps.serial();
        self.scanned(process.start.mono_ns(), scanned);
        self.chains.get(&scanned.tgid).and_then(|chain| chain.last()).is_some_and(|p| p.maps.serial() != serial)
    }

    /// A whole reading of /proc that began at this time saw these processes and no others.
    pub(crate) fn only_these_run(&mut self, tgids: &FxHashSet<u32>, time_mono_ns: u64) {
        let absent: Vec<u32> = self
            .chains
            .iter()
            .filter(|(tgid, chain)| {
                !tgids.contains(tgid) && chain.last().is_some_and(|p| p.start.mono_ns() < time_mono_ns)
            })
            .map(|(&tgid, _)| tgid)
            .collect();
        for tgid in absent {
            self.end(tgid, time_mono_ns);
        }
    }

    /// Takes what /proc said of a process at a time.
    pub(super) fn scanned(&mut self, time: u64, scanned: &ScannedProcess) {
        let newest = self.chains.get(&scanned.tgid).and_then(|chain| chain.last());
        let known = newest.is_some_and(|p| p.start.matches_scan(scanned.start_mono_ns, scanned.latest_start_mono_ns));
        if !known {
            if newest.is_some_and(|p| p.start.mono_ns() > scanned.latest_start_mono_ns) {
                return;
            }
            self.end(scanned.tgid, time);
            let start = Start::Scanned { from: scanned.start_mono_ns, to: scanned.latest_start_mono_ns };
            let Some(new) = self.blank(scanned.tgid, start, scanned.comm) else {
                return;
            };
            self.push(new);
        }
        let old = self.chains.get(&scanned.tgid).and_then(|chain| chain.last()).map(|p| Arc::clone(&p.maps));
        let maps = scanned.maps.as_ref().map(|maps| self.map_set(maps, old.as_deref()));
        let executable = scanned.executable.as_ref().map(|file| self.known_file(file, old.as_deref()));
        let generation = self.next_generation();
        let Some(process) = self.chains.get_mut(&scanned.tgid).and_then(|chain| chain.last_mut()) else { return };
        process.threads = scanned.threads.max(1);
        process.ended_mono_ns = None;
        let mut renamed = process.comm != scanned.comm && process.executable.is_none();
        process.comm = scanned.comm;
        if let Some(executable) = executable {
            if process.executable.as_ref().is_none_or(|known| **known != *executable) {
                renamed = true;
                process.environment = Environment::NotRead;
            }
            process.executable = Some(executable);
            process.awaits_executable = false;
        }
        if let Some(maps) = maps {
            // An ending process has no mappings any more; what was known of it names its samples still.
            if *process.maps != maps && !maps.list().is_empty() {
                process.maps = Arc::new(maps);
                self.changes.other(scanned.tgid);
            }
            process.maps_known = true;
        }
        if renamed {
            process.generation = generation;
        }
    }

    fn map_set(&mut self, maps: &[MapRecord], old: Option<&MapSet>) -> MapSet {
        let mut set = MapSet::new(&self.budget);
        for map in maps {
            let file = self.known_file(&map.file, old);
            if !set.insert(Mapping { start: map.start, end: map.end, offset: map.offset, file }) {
                self.stats.refused_mappings += 1;
            }
        }
        set
    }

    /// The file as records told it, which know its inode's generation, else as /proc tells it, which does not.
    fn known_file(&mut self, file: &MappedFile, old: Option<&MapSet>) -> Arc<MapFile> {
        let same = |f: &&Arc<MapFile>| f.is_as_scanned(file);
        let known = old.and_then(|old| old.list().iter().map(|m| &m.file).find(same));
        known.map_or_else(|| self.files.intern(file), Arc::clone)
    }
}
