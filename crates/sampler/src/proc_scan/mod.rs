//! What /proc says: of everything when the sampler starts, of one process when its records were lost or an address
//! is unknown.
//!
//! **In**: /proc (the kernel's; names and paths inside are the target's, hostile). **Out**: [`ScannedProcess`].
//! **Units**: host pids, monotonic nanoseconds (from clock ticks: coarse). **Limits**: [`MAX_FILE_BYTES`] of each
//! file are read; what cannot be read or parsed is left out and counted.

mod maps_text;
mod reader;

pub(crate) use reader::ProcFs;

use objects::MappedFile;
use profile::Place;

use crate::comm::Comm;
use crate::place::PlaceSource;
use crate::sideband::MapRecord;

/// One process as /proc shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScannedProcess {
    /// Thread group id.
    pub(crate) tgid: u32,
    /// The leader's start, from clock ticks, if all of the machine's sleep lies before it.
    pub(crate) start_mono_ns: u64,
    /// The same, if all of the machine's sleep lies after it.
    pub(crate) latest_start_mono_ns: u64,
    /// The leader's name.
    pub(crate) comm: Comm,
    /// How many threads it has.
    pub(crate) threads: u32,
    /// Its executable mappings; none where they could not be read.
    pub(crate) maps: Option<Vec<MapRecord>>,
    /// The file that it runs; none for kernel threads.
    pub(crate) executable: Option<MappedFile>,
    /// The cgroup that it is in, as samples number it, and where that is.
    pub(crate) place: Option<(u64, Place)>,
}

impl ScannedProcess {
    /// What it holds in memory.
    pub(crate) fn cost_bytes(&self) -> usize {
        let maps = self.maps.as_deref().unwrap_or_default();
        let place = self.place.as_ref().map_or(0, |(_, place)| place.cgroup.len());
        size_of::<Self>() + place + maps.iter().map(|m| size_of::<MapRecord>() + m.file.path.capacity()).sum::<usize>()
    }
}

/// Where the pipeline asks about processes; [`ProcFs`] but for tests.
pub(crate) trait ProcSource: PlaceSource {
    /// One process now. None where it is gone or unreadable.
    fn process(&self, tgid: u32) -> Option<ScannedProcess>;
    /// Every process now.
    fn all(&self) -> Vec<ScannedProcess>;
    /// Whether the process is there.
    fn exists(&self, tgid: u32) -> bool;
    /// Entries that could not be read or parsed, other than for the process's end.
    fn errors(&self) -> u64;
}
