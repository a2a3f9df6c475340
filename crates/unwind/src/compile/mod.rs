//! From the unwind information of a file to the table that the kernel walks by.
//!
//! Layers tell, in this order: what is known of a few functions whatever their tables say (restorers of signal handlers, the
//! entry function; those of Go that go over to another stack), `.eh_frame`, `.debug_frame`, that of a separate debug file,
//! functions that are the outermost where nothing else tells, Go's own table (leaves only). What no layer tells of is a gap.
//!
//! **In**: what [`crate::extract`] made of a file, and of its debug file: hostile bytes. **Out**: [`FileTable`], and what of
//! the file it does not follow. **Units**: ELF addresses. **Limits**: those of `cfi`, `Builder` and [`FileTable`]; all
//! entries together are read [`WORK`] times at the most.

mod context;
mod layers;
mod row;
mod section;
#[cfg(test)]
mod tests;

use std::ops::Range;

use unwind_table::{Builder, BuilderStats, FileTable, Rule};

use crate::UnwindError;
use crate::arch::native;
use crate::blob::Blob;
use crate::cfi::Kind;
use context::Context;
use layers::{Layer, Told};
use row::{Numbers, Why};

/// How often the bytes of the sections may be read, besides [`WORK_BYTES`]: an entry and its common entry are read once for each
/// piece of it that is visible, which is one but in files made to be slow.
const WORK: u64 = 8;
const WORK_BYTES: u64 = 8 << 20;
/// Space between functions that is filled up to the next multiple of this is no gap: nothing runs there.
const PADDING: u64 = 16;

#[cfg(target_arch = "aarch64")]
type Native = unwind_table::Aarch64;
#[cfg(target_arch = "x86_64")]
type Native = unwind_table::X86_64;

/// Rows that are not followed, by the reason. Frame pointers lead on from there, where they make sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsupported {
    /// The frame address counts from a register that is not known even of leaves: by its DWARF number, 31 for those above.
    pub registers: [u64; 32],
    /// The frame address is an expression of another form.
    pub expressions: u64,
    /// The frame pointer is restored in another way.
    pub fp: u64,
    /// The return address is.
    pub ra: u64,
    /// A number is too large.
    pub numbers: u64,
    /// Entries that could not be read to their end.
    pub broken: u64,
    /// Entries that were not read, since reading took too much already.
    pub work: u64,
}

impl Unsupported {
    /// All rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.registers.iter().sum::<u64>() + self.expressions + self.fp + self.ra + self.numbers
    }
}

/// A file's table, and what it took.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The table.
    pub table: FileTable,
    /// What it is made of.
    pub stats: BuilderStats,
    /// Entries of call frame information that tell of some code.
    pub functions: u64,
    /// What is not followed.
    pub unsupported: Unsupported,
}

/// Compiles what [`crate::extract`] made of a file; `debug`: what
/// [`crate::extract_debug`] made of its separate debug file.
///
/// # Errors
/// The bytes are not what [`crate::extract`] makes.
pub fn compile(extracted: Vec<u8>, debug: Option<Vec<u8>>) -> Result<Compiled, UnwindError> {
    let blob = Blob::parse(extracted)?;
    let debug = debug.map(Blob::parse).transpose()?;
    Ok(compile_blob::<Native>(&blob, debug.as_ref(), native::RESTORER_BYTES))
}

fn compile_blob<M: Numbers>(blob: &Blob, debug: Option<&Blob>, restorer_bytes: u64) -> Compiled {
    let code = blob.segments.iter().filter(|segment| segment.executable);
    let start = code.clone().map(|segment| segment.elf_address).min().unwrap_or(0);
    let end = code.map(|segment| segment.elf_address.saturating_add(segment.file_bytes)).max().unwrap_or(0);
    let (base, end) = (blob.base.max(start), end.max(start));

    let always = blob.roots.iter().filter(|root| root.always).map(|root| (root.range.clone(), Rule::END));
    // A handler returns to the restorer's first byte, and the byte before it is looked up.
    let restorers =
        blob.restorers.iter().map(|&at| (at.saturating_sub(1)..at.saturating_add(restorer_bytes), Rule::SIGNAL));
    let lonely = blob.roots.iter().map(|root| (root.range.clone(), Rule::END));
    let mut layers = vec![Layer::of_rules(always.chain(restorers), blob.base), Layer::of_go(blob, true)];
    if let Some(section) = &blob.eh_frame {
        layers.push(Layer::of_section::<M>(Kind::EhFrame, blob, section));
    }
    if let Some(section) = &blob.debug_frame {
        layers.push(Layer::of_section::<M>(Kind::DebugFrame, blob, section));
    }
    if let Some(debug) = debug.filter(|debug| debug.base == blob.base)
        && let Some(section) = &debug.debug_frame
    {
        layers.push(Layer::of_section::<M>(Kind::DebugFrame, debug, section));
    }
    layers.push(Layer::of_rules(lonely, blob.base));
    layers.push(Layer::of_go(blob, false));

    let sections = [&blob.eh_frame, &blob.debug_frame].into_iter().chain(debug.map(|debug| &debug.debug_frame));
    let bytes: u64 = sections.flatten().map(|section| section.bytes.len() as u64).sum();
    let functions = layers.iter().filter(|layer| matches!(layer.told, Told::Frames(_))).map(|layer| layer.pieces.len());
    let functions = functions.sum::<usize>() as u64;
    let mut compiler = Compiler {
        base: blob.base,
        builder: Builder::new(M::MACHINE, start..end),
        context: Context::new_in(),
        unsupported: Unsupported::default(),
        work: bytes.saturating_mul(WORK).saturating_add(WORK_BYTES),
    };
    let offset = |address: u64| u32::try_from(address.saturating_sub(blob.base)).unwrap_or(u32::MAX);
    compiler.cover::<M>(&mut layers, offset(base)..offset(end));
    let (table, stats) = compiler.builder.finish();
    Compiled { table, stats, functions, unsupported: compiler.unsupported }
}

struct Compiler {
    /// What pieces count from.
    base: u64,
    builder: Builder,
    context: Context,
    unsupported: Unsupported,
    /// Bytes that may still be read.
    work: u64,
}

impl Compiler {
    /// Tells of a range, by the first layer that does. Recursion goes as deep as there are layers.
    fn cover<M: Numbers>(&mut self, layers: &mut [Layer<'_>], range: Range<u32>) {
        let Some((layer, below)) = layers.split_first_mut() else { return self.gap(&range) };
        let mut at = range.start;
        let mut next = layer.first_above(range.start);
        while at < range.end {
            let piece = layer.pieces.get(next).copied().filter(|piece| piece.start < range.end);
            let Some(piece) = piece else { break };
            next += 1;
            if at < piece.start {
                self.cover::<M>(below, at..piece.start);
            }
            let visible = piece.start.max(at)..piece.end.min(range.end);
            at = visible.end;
            match &mut layer.told {
                Told::Rules(rules) => {
                    let rule = rules.get(piece.at as usize).copied().unwrap_or(Rule::GAP);
                    self.builder.push(self.base.saturating_add(u64::from(visible.start)), rule);
                }
                Told::Frames(frames) => self.function::<M>(frames, piece.at, visible),
            }
        }
        if at < range.end {
            self.cover::<M>(below, at..range.end);
        }
    }

    fn gap(&mut self, range: &Range<u32>) {
        let (start, end) = (u64::from(range.start) + self.base, u64::from(range.end) + self.base);
        if end.wrapping_sub(start) < PADDING && end.is_multiple_of(PADDING) {
            return;
        }
        self.builder.push(start, Rule::GAP);
    }

    /// The rows of one entry, as far as they are visible.
    fn function<M: Numbers>(&mut self, frames: &mut section::Frames<'_>, at: u32, visible: Range<u32>) {
        let (start, end) = (u64::from(visible.start) + self.base, u64::from(visible.end) + self.base);
        if self.work == 0 {
            self.unsupported.work += 1;
            self.builder.push(start, Rule::GAP);
            return;
        }
        let Self { builder, context, unsupported, .. } = self;
        // What holds at the visible start began before it, perhaps.
        builder.push(start, Rule::GAP);
        let (whole, cost) = frames.rows::<M>(at, context, |address, rule| {
            if address >= end {
                return false;
            }
            let rule = rule.unwrap_or_else(|why| {
                unsupported.count(why);
                Rule::UNSUPPORTED
            });
            builder.push(address.max(start), rule);
            true
        });
        if !whole {
            unsupported.broken += 1;
        }
        self.work = self.work.saturating_sub(cost);
    }
}

impl Unsupported {
    fn count(&mut self, why: Why) {
        let last = self.registers.len() - 1;
        let counter = match why {
            Why::Register(register) => match self.registers.get_mut(usize::from(register.0).min(last)) {
                Some(counter) => counter,
                None => return,
            },
            Why::Expression => &mut self.expressions,
            Why::Fp => &mut self.fp,
            Why::Ra => &mut self.ra,
            Why::Number => &mut self.numbers,
        };
        *counter += 1;
    }
}
