//! Programs that begin, before their turn: what samples must wait for, those who prepare for samples must not.
//!
//! A record is applied when no sample from before it can come any more ([`crate::merge`]), a tenth of a second later where the
//! machine is quiet. Walks of a new program are to be ready by then. So the mappings of processes whose exec is among the
//! records that wait are put together ahead; when the same comes of applying them, the process takes the set that was handed out.
//!
//! **Limits**: processes that executed within the records that wait, or [`RECENT_NS`] before.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{FileKind, MapFile, MapSet, Mapping, Process, ProcessTable, Standing};
use crate::sideband::{Kind, Record};

/// A program maps its libraries within this, mostly.
const RECENT_NS: u64 = 1_000_000_000;

/// A process as it will be.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    /// Thread group id.
    pub(crate) tgid: u32,
    /// The latest time at which its leader can have started.
    pub(crate) started_by_mono_ns: u64,
    /// The file that it runs.
    pub(crate) executable: Option<Arc<MapFile>>,
    /// Its executable mappings.
    pub(crate) maps: Arc<MapSet>,
    /// Whether samples of it are to be expected.
    pub(crate) standing: Standing,
    /// The last record that it is made of.
    last_mono_ns: u64,
    records: usize,
}

impl ProcessTable {
    /// Hands out each process that begins a program in these records, sorted by time, once for each state. To be called when what has
    /// changed was taken ([`ProcessTable::take_changes`]).
    pub(crate) fn preview(&mut self, waiting: &[Record], mut each: impl FnMut(&Preview)) {
        let mut begun: FxHashMap<u32, Preview> = FxHashMap::default();
        let mut forked: FxHashMap<u32, (u64, Standing)> = FxHashMap::default();
        for record in waiting {
            let time = record.time_mono_ns;
            match &record.kind {
                Kind::Fork { tgid, parent_tgid, .. } if tgid != parent_tgid => {
                    let parent = forked.get(parent_tgid).map(|(_, parent)| *parent);
                    let parent = parent.unwrap_or_else(|| self.standing(*parent_tgid));
                    forked.insert(*tgid, (time, self.listed.forked(parent)));
                }
                Kind::Comm { tgid, exec: true, .. } => {
                    let known = self.running(*tgid).map(|process| process.start.latest_mono_ns());
                    let (started_by_mono_ns, standing) = match forked.get(tgid) {
                        Some(forked) => *forked,
                        None => (known.unwrap_or(time), self.standing(*tgid)),
                    };
                    let new = Preview {
                        tgid: *tgid,
                        started_by_mono_ns,
                        executable: None,
                        maps: Arc::new(MapSet::new(&self.budget)),
                        standing,
                        last_mono_ns: time,
                        records: 1,
                    };
                    begun.insert(*tgid, new);
                }
                Kind::Map { tgid, map } => {
                    let preview = match begun.get_mut(tgid) {
                        Some(preview) => preview,
                        None => {
                            let is_recent = |process: &&mut Process| process.has_executed_since(time, RECENT_NS);
                            let Some(process) = self.running(*tgid).filter(is_recent) else { continue };
                            let preview = Preview::of(process);
                            begun.entry(*tgid).or_insert(preview)
                        }
                    };
                    let file = self.files.intern(&map.file);
                    if preview.executable.is_none() && file.kind == FileKind::File {
                        preview.executable = Some(Arc::clone(&file));
                    }
                    let mapping = Mapping { start: map.start, end: map.end, offset: map.offset, file };
                    // What finds no room here finds none later, and is counted then.
                    MapSet::insert_into(&mut preview.maps, mapping);
                    preview.last_mono_ns = time;
                    preview.records += 1;
                }
                Kind::Exit { tgid, tid } if tgid == tid => {
                    begun.remove(tgid);
                }
                _ => (),
            }
        }
        for (tgid, preview) in &mut begun {
            let is_same = |known: &&Preview| {
                (known.last_mono_ns, known.records) == (preview.last_mono_ns, preview.records)
                    || *known.maps == *preview.maps
            };
            if let Some(known) = self.previews.remove(tgid).as_ref().filter(is_same) {
                preview.maps = Arc::clone(&known.maps);
            } else if !preview.maps.list().is_empty() {
                each(preview);
            }
        }
        self.previews = begun;
    }

    /// What was handed out of a process is what it has become: it takes that set, so that both have one number.
    pub(super) fn adopt_preview(&mut self, tgid: u32) {
        if let Some(preview) = self.previews.get(&tgid)
            && let Some(process) = self.chains.get_mut(&tgid).and_then(|chain| chain.last_mut())
            && process.maps.serial() != preview.maps.serial()
            && *process.maps == *preview.maps
        {
            process.maps = Arc::clone(&preview.maps);
        }
    }
}

impl Preview {
    fn of(process: &Process) -> Self {
        Self {
            tgid: process.tgid,
            started_by_mono_ns: process.start.latest_mono_ns(),
            executable: process.executable.clone(),
            maps: Arc::clone(&process.maps),
            standing: process.standing,
            last_mono_ns: 0,
            records: 0,
        }
    }
}
