//! A kernel side of one's own, which knows what walks may read.

use std::collections::{BTreeMap, BTreeSet};

use sampler_abi::ProcessEntry;
use unwind_table::{End, LocalShards, Shards, Snapshot, Walk, X86_64, step};

use super::Kernel;
use crate::kernel::KernelError;

const STACK: u64 = 0x7fff_0000_0000;

/// Shards in memory, and who is published.
#[derive(Debug, Default)]
pub(super) struct FakeKernel {
    pub(super) shards: LocalShards,
    pub(super) count: u32,
    pub(super) max_shards: u32,
    pub(super) max_processes: usize,
    pub(super) published: BTreeMap<u32, ProcessEntry>,
    /// Walks that began before the last wait may read these.
    pub(super) under_way: Vec<ProcessEntry>,
    pub(super) waits: u32,
    /// Those whose entry an exec took away, until they are published again.
    pub(super) has_executed: BTreeSet<u32>,
}

impl FakeKernel {
    pub(super) fn new(max_shards: u32) -> Self {
        Self { max_shards, max_processes: 1000, ..Self::default() }
    }

    /// An exec takes the entry away.
    pub(super) fn executed(&mut self, tgid: u32) {
        self.retire(tgid);
        if self.published.remove(&tgid).is_some() {
            self.has_executed.insert(tgid);
        }
    }

    fn retire(&mut self, tgid: u32) {
        self.under_way.extend(self.published.get(&tgid).copied());
    }

    /// A step of a walk of a process, from an address: how it ends, and how large the frame is in words.
    pub(super) fn step(&self, entry: &ProcessEntry, pc: u64) -> (End, u64) {
        let stack: Vec<u8> = (0..512u64).flat_map(|_| 1u64.to_le_bytes()).collect();
        let mut walk = Walk::default();
        walk.begin([pc, STACK, 0, 0], entry.mappings, entry.mapping_count, 1);
        let end = step::<X86_64, _>(&mut walk, &mut Snapshot::new(&self.shards, STACK, &stack));
        (end, walk.sp.wrapping_sub(STACK) / 8)
    }
}

impl Shards for FakeKernel {
    fn write(&mut self, shard: u32, offset: u32, bytes: &[u8]) {
        assert!(shard < self.count, "a shard that is not there");
        self.shards.write(shard, offset, bytes);
    }
}

impl Kernel for FakeKernel {
    fn max_shards(&self) -> u32 {
        self.max_shards
    }

    fn shards(&self) -> u32 {
        self.count
    }

    fn add_shard(&mut self) -> Result<u32, KernelError> {
        assert!(self.count < self.max_shards);
        self.count += 1;
        Ok(self.count - 1)
    }

    fn publish(&mut self, tgid: u32, entry: &ProcessEntry) -> Result<bool, KernelError> {
        if self.published.len() >= self.max_processes && !self.published.contains_key(&tgid) {
            return Ok(false);
        }
        self.retire(tgid);
        self.published.insert(tgid, *entry);
        self.has_executed.remove(&tgid);
        Ok(true)
    }

    fn is_published(&self, tgid: u32) -> Result<bool, KernelError> {
        Ok(self.published.contains_key(&tgid))
    }

    fn withdraw(&mut self, tgid: u32) -> Result<bool, KernelError> {
        self.retire(tgid);
        Ok(self.published.remove(&tgid).is_some())
    }

    fn wait_for_walks(&mut self) -> Result<(), KernelError> {
        self.under_way.clear();
        self.waits += 1;
        Ok(())
    }

    fn kernel_bytes(&self) -> u64 {
        u64::from(self.count) << 20
    }
}
