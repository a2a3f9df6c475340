//! Files that are fetched before a sample needs them: of a program that begins.
//!
//! **Limits**: the executable, and [`FETCHED`] others, each with less than [`SMALL_BYTES`] of code: those that most programs
//! here have, first.

use std::cmp::Reverse;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::State;
use super::desk::{Mapped, Why};
use super::files::SAMPLE_HEAT;
use super::sets::has_file;
use crate::process::MapFile;

/// Files besides the executable.
const FETCHED: usize = 8;
/// Compiling these takes some milliseconds.
const SMALL_BYTES: u64 = 4 << 20;
/// Less than a sample's: what was sampled goes first.
const EXECUTABLE_HEAT: u64 = SAMPLE_HEAT / 2;
const LIBRARY_HEAT: u64 = SAMPLE_HEAT / 4;

impl State {
    /// A program begins: its files are worth some work.
    pub(crate) fn fetch_ahead(&mut self, news: &Mapped) {
        if news.why != Why::Executed || !self.processes.contains_key(&news.tgid) {
            return;
        }
        if let Some(executable) = &news.executable {
            self.expect(executable, EXECUTABLE_HEAT);
        }
        let mut names: FxHashMap<&Arc<MapFile>, u64> = FxHashMap::default();
        for mapping in news.maps.list().iter().filter(|mapping| has_file(mapping)) {
            *names.entry(&mapping.file).or_default() += mapping.end.saturating_sub(mapping.start);
        }
        let users = |name: &Arc<MapFile>| self.files.get(name).map_or(0, |file| file.sets.len());
        let small = names.into_iter().filter(|(name, bytes)| {
            *bytes <= SMALL_BYTES && news.executable.as_ref().is_none_or(|executable| executable != *name)
        });
        let mut small: Vec<_> = small.map(|(name, bytes)| (Reverse(users(name)), bytes, name)).collect();
        small.sort_by_key(|&(users, bytes, _)| (users, bytes));
        for (_, _, name) in small.into_iter().take(FETCHED) {
            self.expect(name, LIBRARY_HEAT);
        }
    }

    /// A file that will most likely be needed: at least this hot.
    fn expect(&mut self, name: &Arc<MapFile>, heat: u64) {
        let known = self.files.get(name).map_or(0, |file| file.heat);
        self.heat(name, heat.saturating_sub(known));
    }
}
