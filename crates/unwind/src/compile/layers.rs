//! Who tells of which code: layers of pieces, of which the first that has an address counts.
//!
//! **Limits**: [`MAX_PIECES`] of a layer.

use std::ops::Range;

use crate::blob::{Blob, INDEX_HEAD_BYTES, INDEX_ROW_BYTES, Section, index_row};
use crate::cfi::Kind;
use crate::go;

use super::row::Numbers;
use super::section::Frames;
use unwind_table::{Rule, Slot};

const MAX_PIECES: usize = 10_000_000;

/// Some code, from an offset from the blob's base to another, and what tells of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) start: u32,
    pub(super) end: u32,
    /// An entry's offset, or a rule's place in the layer's list.
    pub(super) at: u32,
}

/// What tells.
pub(super) enum Told<'a> {
    /// Entries of a section.
    Frames(Frames<'a>),
    /// Each piece has one rule.
    Rules(Vec<Rule>),
}

/// Pieces in order, which do not overlap.
pub(super) struct Layer<'a> {
    pub(super) pieces: Vec<Piece>,
    pub(super) told: Told<'a>,
}

impl<'a> Layer<'a> {
    /// Pieces with a rule each, in any order. The later of two that overlap counts where it does.
    pub(super) fn of_rules(rules: impl IntoIterator<Item = (Range<u64>, Rule)>, base: u64) -> Self {
        let (mut pieces, mut list) = (Vec::new(), Vec::new());
        for (range, rule) in rules {
            let offset = |address: u64| u32::try_from(address.checked_sub(base)?).ok();
            let (Some(start), Some(end)) = (offset(range.start), offset(range.end)) else { continue };
            let Ok(at) = u32::try_from(list.len()) else { break };
            if pieces.len() >= MAX_PIECES {
                break;
            }
            pieces.push(Piece { start, end, at });
            list.push(rule);
        }
        Self { pieces: separated(pieces), told: Told::Rules(list) }
    }

    /// What Go's own table tells of leaves in functions that go over to another stack, or of those in all others.
    pub(super) fn of_go(blob: &Blob, switching: bool) -> Self {
        let rows = blob.distances.as_chunks::<INDEX_ROW_BYTES>().0;
        let ends = rows.iter().skip(1).map(|row| go::of_row(row).0).chain([u32::MAX]);
        let kind = if switching { unwind_table::Kind::SWITCH } else { unwind_table::Kind::LEAF };
        let base = blob.base;
        let rules = rows.iter().zip(ends).filter_map(|(row, end)| {
            let (start, told) = go::of_row(row);
            let distance = told.filter(|place| place.switches == switching)?.distance;
            let cfa = i64::from(distance) + 8;
            // Where a frame pointer was saved, it lies right below the return address.
            let fp = if distance >= 8 { Slot::Cfa(-16) } else { Slot::Kept };
            let rule = Rule::new(kind, cfa, fp, Some(-8))?;
            Some((base + u64::from(start)..base + u64::from(end), rule))
        });
        Self::of_rules(rules, base)
    }

    /// The functions of a section.
    pub(super) fn of_section<M: Numbers>(kind: Kind, blob: &'a Blob, section: &'a Section) -> Self {
        let mut frames = Frames::new::<M>(kind, blob, section);
        let rows = section.index.get(INDEX_HEAD_BYTES..).unwrap_or_default().as_chunks::<INDEX_ROW_BYTES>().0;
        let mut pieces = Vec::with_capacity(rows.len().min(MAX_PIECES));
        for row in rows.iter().take(MAX_PIECES) {
            let (start, at) = index_row(row);
            let Ok(at) = u32::try_from(at) else { continue };
            let Some(range) = frames.range(at) else { continue };
            let end = range.end.saturating_sub(blob.base).min(u64::from(u32::MAX));
            if range.start.checked_sub(blob.base) == Some(u64::from(start)) {
                pieces.push(Piece { start, end: u32::try_from(end).unwrap_or(u32::MAX), at });
            }
        }
        Self { pieces: separated(pieces), told: Told::Frames(frames) }
    }

    /// The first piece that ends above an offset.
    pub(super) fn first_above(&self, start: u32) -> usize {
        self.pieces.partition_point(|piece| piece.end <= start)
    }
}

/// Sorts, and ends each piece where the next begins: of nested functions the inner one counts and the outer one ends there,
/// as look-ups by the start see it.
fn separated(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| piece.start);
    let mut next = u32::MAX;
    for piece in pieces.iter_mut().rev() {
        piece.end = piece.end.min(next);
        next = piece.start;
    }
    pieces.retain(|piece| piece.start < piece.end);
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_do_not_overlap(pieces in proptest::collection::vec((0u32..200, 0u32..200), 0..40)) {
            let all: Vec<_> = pieces.iter().zip(0..).map(|(&(start, end), at)| Piece { start, end, at }).collect();
            let separated = separated(all.clone());
            prop_assert!(separated.windows(2).all(|w| w[0].end <= w[1].start));
            for address in 0..200 {
                // The last that starts at or below, if it reaches so far.
                let want = all.iter().filter(|p| p.start <= address).max_by_key(|p| (p.start, p.at));
                let want = want.filter(|p| address < p.end).map(|p| p.at);
                let got = separated.iter().find(|p| p.start <= address && address < p.end).map(|p| p.at);
                prop_assert_eq!(got, want, "{}", address);
            }
        }
    }
}
