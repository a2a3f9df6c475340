//! Each distinct stack once, for as long as windows use it.

use std::sync::Arc;

use hashbrown::HashTable;
use profile::Frame;

#[derive(Debug)]
struct Known {
    hash: u64,
    stack: Arc<[Frame]>,
    used_at: u64,
}

/// The stacks of the open windows and of the last that was closed.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    table: HashTable<Known>,
    bytes: usize,
    epoch: u64,
}

impl Stacks {
    /// The shared value for a stack of this hash.
    pub(super) fn intern(&mut self, hash: u64, stack: &[Frame]) -> Arc<[Frame]> {
        self.intern_with(hash, stack, || stack.into())
    }

    /// The same for a value that was shared before.
    pub(super) fn intern_shared(&mut self, hash: u64, stack: &Arc<[Frame]>) -> Arc<[Frame]> {
        self.intern_with(hash, stack, || Arc::clone(stack))
    }

    fn intern_with(&mut self, hash: u64, stack: &[Frame], make: impl FnOnce() -> Arc<[Frame]>) -> Arc<[Frame]> {
        let epoch = self.epoch;
        if let Some(known) = self.table.find_mut(hash, |k| k.hash == hash && *k.stack == *stack) {
            known.used_at = epoch;
            return Arc::clone(&known.stack);
        }
        let stack = make();
        self.bytes += cost_bytes(&stack);
        self.table.insert_unique(hash, Known { hash, stack: Arc::clone(&stack), used_at: epoch }, |k| k.hash);
        stack
    }

    /// A window was closed: stacks that neither it nor the one before used are let go.
    pub(super) fn turn(&mut self) {
        self.epoch += 1;
        let (epoch, bytes) = (self.epoch, &mut self.bytes);
        self.table.retain(|k| {
            let keep = k.used_at + 1 >= epoch;
            if !keep {
                *bytes -= cost_bytes(&k.stack);
            }
            keep
        });
    }

    /// What they hold in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost_bytes(stack: &[Frame]) -> usize {
    size_of::<Known>() + size_of_val(stack)
}
