//! What this room needs of the kernel side.

use sampler_abi::ProcessEntry;
use unwind_table::Shards;

use crate::kernel::{KernelError, TablesHandle};

/// Shards, and who is walked over what; [`TablesHandle`] but for tests.
pub(crate) trait Kernel: Shards {
    /// How many shards there may be.
    fn max_shards(&self) -> u32;
    /// How many there are.
    fn shards(&self) -> u32;
    /// One more, with the next number. Takes some 10 ms.
    fn add_shard(&mut self) -> Result<u32, KernelError>;
    /// Walks of a process use this entry from now on. False where there is no room for it.
    fn publish(&mut self, tgid: u32, entry: &ProcessEntry) -> Result<bool, KernelError>;
    /// Whether a process is published: an exec takes its entry away.
    fn is_published(&self, tgid: u32) -> Result<bool, KernelError>;
    /// No walk of a process begins from now on.
    fn withdraw(&mut self, tgid: u32) -> Result<bool, KernelError>;
    /// Waits until walks that had begun are over. Takes some 10 ms.
    fn wait_for_walks(&mut self) -> Result<(), KernelError>;
    /// Bytes of all maps.
    fn kernel_bytes(&self) -> u64;
}

impl Kernel for TablesHandle {
    fn max_shards(&self) -> u32 {
        Self::max_shards(self)
    }

    fn shards(&self) -> u32 {
        Self::shards(self)
    }

    fn add_shard(&mut self) -> Result<u32, KernelError> {
        Self::add_shard(self)
    }

    fn publish(&mut self, tgid: u32, entry: &ProcessEntry) -> Result<bool, KernelError> {
        Self::publish(self, tgid, entry)
    }

    fn is_published(&self, tgid: u32) -> Result<bool, KernelError> {
        Ok(self.published(tgid)?.is_some())
    }

    fn withdraw(&mut self, tgid: u32) -> Result<bool, KernelError> {
        Self::withdraw(self, tgid)
    }

    fn wait_for_walks(&mut self) -> Result<(), KernelError> {
        Self::wait_for_walks(self)
    }

    fn kernel_bytes(&self) -> u64 {
        Self::kernel_bytes(self)
    }
}
