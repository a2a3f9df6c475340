//! What tells that two files have the same tables: a hash of every byte that reading one of them looked at.
//!
//! Making tables is a function of the file's size and of what is read of it, and what is read next depends on nothing but
//! what was read before. So a file that agrees with another one in its size and in every block that was read of that has the
//! same tables, whatever else differs; a build id alone, which anybody can write into a file, proves nothing.
//!
//! **In**: blocks, as they were read (hostile; they may change between two reads). **Out**: [`Fingerprint`], and the [`Run`]s of
//! blocks that it covers. **Units**: blocks of [`BLOCK_BYTES`], counted from the file's start; the last may be shorter.
//! **Limits**: [`MAX_RUNS`]; a file of which more is read has none, and shares its tables with nobody.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The unit of reading and hashing.
pub(crate) const BLOCK_BYTES: u64 = 8 << 10;
/// Runs of blocks of one file.
pub(crate) const MAX_RUNS: usize = 4096;

/// Hash of what the tables of a file are made of: files with the same have the same tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) blocks: u64,
}

/// What a fingerprint covers, and the fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Covered {
    /// The file's size.
    pub(crate) bytes: u64,
    /// Sorted, with blocks between them.
    pub(crate) runs: Vec<Run>,
    pub(crate) fingerprint: Fingerprint,
}

/// The hash of a block.
type BlockHash = [u8; 32];

/// Blocks read of a file.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    blocks: BTreeMap<u64, BlockHash>,
    /// A block was read twice, and had changed between.
    torn: bool,
    /// A block could not be read: what was made without it says nothing about another file.
    failed: bool,
}

impl Trace {
    /// A block was read.
    pub(crate) fn saw(&mut self, block: u64, bytes: &[u8]) {
        let hash = *blake3::hash(bytes).as_bytes();
        if self.blocks.insert(block, hash).is_some_and(|before| before != hash) {
            self.torn = true;
        }
    }

    /// A block could not be read.
    pub(crate) fn missed(&mut self) {
        self.failed = true;
    }

    /// Whether a block had changed when it was read again.
    pub(crate) fn is_torn(&self) -> bool {
        self.torn
    }

    /// The fingerprint of what was read. None where that is too scattered, had changed, or could not
    /// all be read.
    pub(crate) fn covered(&self, bytes: u64) -> Option<Covered> {
        if self.torn || self.failed {
            return None;
        }
        let mut runs: Vec<Run> = Vec::new();
        for &block in self.blocks.keys() {
            let scattered = runs.len() >= MAX_RUNS;
            match runs.last_mut() {
                Some(run) if run.first + run.blocks == block => run.blocks += 1,
                _ if scattered => return None,
                _ => runs.push(Run { first: block, blocks: 1 }),
            }
        }
        let mut sum = Sum::new(bytes, &runs);
        self.blocks.values().for_each(|hash| sum.block(hash));
        Some(Covered { bytes, runs, fingerprint: sum.finish() })
    }
}

/// Adds up what a fingerprint is of.
struct Sum(blake3::Hasher);

impl Sum {
    fn new(bytes: u64, runs: &[Run]) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut put = |number: u64| {
            hasher.update(&number.to_le_bytes());
        };
        put(bytes);
        put(runs.len() as u64);
        for run in runs {
            put(run.first);
            put(run.blocks);
        }
        Self(hasher)
    }

    fn block(&mut self, hash: &BlockHash) {
        self.0.update(hash);
    }

    fn finish(self) -> Fingerprint {
        Fingerprint(*self.0.finalize().as_bytes())
    }
}

impl Covered {
    /// Whether it makes sense: it may come from a worker, or from a disk.
    pub(crate) fn is_sound(&self) -> bool {
        let blocks = self.bytes.div_ceil(BLOCK_BYTES);
        let mut at = 0;
        self.runs.len() <= MAX_RUNS
            && self.runs.iter().all(|run| {
                let fits = run.first >= at
                    && run.blocks > 0
                    && run.first.checked_add(run.blocks).is_some_and(|end| end <= blocks);
                at = run.first.saturating_add(run.blocks);
                fits
            })
    }
}

/// The fingerprint of these runs of a file of this size. None where it has no such runs. `read` gets whole blocks from an
/// offset on, many at a time.
pub(crate) fn of_runs<E>(
    bytes: u64,
    runs: &[Run],
    mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>,
) -> Result<Option<Fingerprint>, E> {
    const BLOCKS_AT_ONCE: u64 = 32;
    let mut buffer = vec![0; usize::try_from(BLOCKS_AT_ONCE * BLOCK_BYTES).unwrap_or_default()];
    let mut sum = Sum::new(bytes, runs);
    for run in runs {
        let Some(end) = run.first.checked_add(run.blocks).and_then(|end| end.checked_mul(BLOCK_BYTES)) else {
            return Ok(None);
        };
        // Only the file's last block may be a short one.
        if end.saturating_sub(bytes) >= BLOCK_BYTES {
            return Ok(None);
        }
        let (mut at, end) = (run.first * BLOCK_BYTES, end.min(bytes));
        while at < end {
            let some = usize::try_from((end - at).min(BLOCKS_AT_ONCE * BLOCK_BYTES)).unwrap_or(buffer.len());
            let Some(part) = buffer.get_mut(..some) else { return Ok(None) };
            read(part, at)?;
            for block in part.chunks(usize::try_from(BLOCK_BYTES).unwrap_or(1)) {
                sum.block(blake3::hash(block).as_bytes());
            }
            at = at.saturating_add(u64::try_from(some).unwrap_or(u64::MAX));
        }
    }
    Ok(Some(sum.finish()))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(content: &[u8], number: u64) -> &[u8] {
        let start = (number * BLOCK_BYTES) as usize;
        &content[start..content.len().min(start + BLOCK_BYTES as usize)]
    }

    fn again(content: &[u8], covered: &Covered) -> Option<Fingerprint> {
        of_runs(content.len() as u64, &covered.runs, |buffer, offset| {
            let start = offset as usize;
            buffer.copy_from_slice(content.get(start..start + buffer.len()).ok_or(())?);
            Ok::<(), ()>(())
        })
        .unwrap_or(None)
    }

    proptest! {
        // Hashing is slow without optimisation.
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_same_is_found_again_and_nothing_else(
            bytes in 1_usize..100_000,
            seen in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
            changed in any::<prop::sample::Index>(),
        ) {
            let mut content: Vec<u8> = (0..=255_u8).cycle().take(bytes).collect();
            let blocks = bytes.div_ceil(BLOCK_BYTES as usize);
            let seen: Vec<u64> = seen.iter().map(|index| index.index(blocks) as u64).collect();
            let mut trace = Trace::default();
            seen.iter().for_each(|&number| trace.saw(number, block(&content, number)));
            let covered = trace.covered(bytes as u64).unwrap();
            prop_assert!(covered.is_sound());
            prop_assert_eq!(again(&content, &covered), Some(covered.fingerprint));

            let at = changed.index(bytes);
            content[at] ^= 1;
            let matters = seen.contains(&(at as u64 / BLOCK_BYTES));
            prop_assert_eq!(again(&content, &covered) == Some(covered.fingerprint), !matters);
            content[at] ^= 1;
            content.push(0);
            prop_assert_ne!(again(&content, &covered), Some(covered.fingerprint), "another size");
        }

        #[test]
        fn any_runs_are_refused_or_read(runs in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4), bytes in 0_u64..100_000) {
            let runs: Vec<Run> = runs.into_iter().map(|(first, blocks)| Run { first, blocks }).collect();
            let content = vec![0; bytes as usize];
            let covered = Covered { bytes, runs, fingerprint: Fingerprint([0; 32]) };
            prop_assert!(again(&content, &covered).is_none() || covered.runs.iter().all(|run| run.first < 16));
        }
    }

    #[test]
    fn what_changes_between_two_reads_has_none() {
        let mut trace = Trace::default();
        trace.saw(3, b"one");
        trace.saw(3, b"one");
        assert!(!trace.is_torn() && trace.covered(BLOCK_BYTES * 4).is_some());
        trace.saw(3, b"two");
        assert!(trace.is_torn() && trace.covered(BLOCK_BYTES * 4).is_none());
    }
}
