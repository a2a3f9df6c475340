//! Overlapping symbols to ranges that do not overlap.
//!
//! **In**: symbols of a hostile file. **Out**: sorted disjoint ranges, so that finding one is a binary search.
//! An address belongs, of the symbols that cover it, to the one that starts last; of those that start together, to
//! the preferred. A symbol without a size reaches to the next symbol or the end of its section, but is left out where
//! one with a size covers its start: it is a label in a function.

use crate::pick::Preference;

/// A symbol, before its range is settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) start: u64,
    /// 0 where the table gives none.
    pub(crate) bytes: u64,
    /// The end of its section.
    pub(crate) section_end: u64,
    pub(crate) preference: Preference<'a>,
    pub(crate) name: &'a [u8],
    /// An entry of the procedure linkage table, not the function itself.
    pub(crate) plt: bool,
}

/// A settled range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) name: &'a [u8],
    /// An entry of the procedure linkage table, not the function itself.
    pub(crate) plt: bool,
}

impl Settled<'_> {
    /// Whether both are pieces of one symbol.
    pub(crate) fn same_symbol(&self, other: &Self) -> bool {
        std::ptr::eq(self.name, other.name) && self.plt == other.plt
    }
}

/// Settles what belongs to whom.
pub(crate) fn settle(mut candidates: Vec<Candidate<'_>>) -> Vec<Settled<'_>> {
    // Of symbols that start together the preferred comes last and so lies on top.
    candidates.sort_unstable_by(|a, b| a.start.cmp(&b.start).then_with(|| a.preference.cmp(&b.preference)));
    give_sizes(&mut candidates);
    let mut out: Vec<Settled<'_>> = Vec::with_capacity(candidates.len());
    let mut open: Vec<Settled<'_>> = Vec::new();
    for c in &candidates {
        let end = c.start.saturating_add(c.bytes);
        if end > c.start {
            close(&mut open, &mut out, c.start);
            open.push(Settled { start: c.start, end, name: c.name, plt: c.plt });
        }
    }
    close(&mut open, &mut out, u64::MAX);
    out
}

/// Writes out what the open symbols cover up to `until`, the innermost first.
fn close<'a>(open: &mut Vec<Settled<'a>>, out: &mut Vec<Settled<'a>>, until: u64) {
    let mut from = out.last().map_or(0, |last| last.end);
    while let Some(top) = open.last().copied() {
        let start = top.start.max(from);
        let end = top.end.min(until);
        if start < end {
            match out.last_mut() {
                Some(last) if last.end == start && last.same_symbol(&top) => last.end = end,
                _ => out.push(Settled { start, end, ..top }),
            }
            from = end;
        }
        if top.end > until {
            return;
        }
        open.pop();
    }
}

/// Gives symbols without a size one, or leaves them at 0: then they are not used.
fn give_sizes(candidates: &mut [Candidate<'_>]) {
    let mut covered = 0;
    let mut in_function = vec![false; candidates.len()];
    // Those that start together are judged after all of them are known.
    let mut i = 0;
    while let Some(first) = candidates.get(i).copied() {
        let group = candidates.get(i..).unwrap_or_default();
        let n = group.iter().take_while(|c| c.start == first.start).count();
        let reach = group.iter().take(n).map(|c| c.start.saturating_add(c.bytes)).max().unwrap_or(0);
        covered = reach.max(covered);
        if covered > first.start {
            in_function.iter_mut().skip(i).take(n).for_each(|f| *f = true);
        }
        i = i.saturating_add(n);
    }
    let mut next = None;
    let mut at = u64::MAX;
    for (c, in_function) in candidates.iter_mut().zip(&in_function).rev() {
        if c.start != at {
            // What starts at `at` is what the symbols before it may reach to.
            next = (at != u64::MAX).then_some(at).or(next);
            at = c.start;
        }
        if c.bytes == 0 && !in_function {
            let end = next.map_or(c.section_end, |n| n.min(c.section_end));
            c.bytes = end.saturating_sub(c.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECTION_END: u64 = 100;

    fn candidate((start, bytes, binding, name): (u64, u64, u8, &'static str)) -> Candidate<'static> {
        let name = name.as_bytes();
        let preference = Preference::new(bytes > 0, binding, true, name);
        Candidate { start, bytes, section_end: SECTION_END, preference, name, plt: false }
    }

    fn name_at(ranges: &[Settled<'_>], address: u64) -> Option<String> {
        let found = ranges.iter().find(|r| r.start <= address && address < r.end)?;
        Some(String::from_utf8_lossy(found.name).into_owned())
    }

    #[test]
    fn nested_aliased_and_sizeless() {
        let ranges = settle(
            [
                (10, 30, 2, "outer"),
                (20, 5, 0, "inner"),
                (20, 5, 2, "inner_global"),
                (22, 0, 0, "label"),
                (50, 0, 2, "asm"),
                (60, 10, 2, "last"),
                (90, 0, 2, "tail"),
            ]
            .map(candidate)
            .to_vec(),
        );
        let check = |address, want: Option<&str>| assert_eq!(name_at(&ranges, address).as_deref(), want, "{address}");
        check(9, None);
        check(10, Some("outer"));
        check(20, Some("inner_global"));
        check(24, Some("inner_global"));
        check(25, Some("outer"));
        check(40, None);
        check(50, Some("asm"));
        check(59, Some("asm"));
        check(70, None);
        check(99, Some("tail"));
        check(100, None);
    }

    /// The rule of the module's doc, without any cleverness.
    fn linear(symbols: &[Candidate<'_>], address: u64) -> Option<String> {
        let end = |c: &Candidate<'_>| {
            if c.bytes > 0 {
                return c.start + c.bytes;
            }
            let label = symbols.iter().any(|o| o.bytes > 0 && o.start <= c.start && c.start < o.start + o.bytes);
            let next = symbols.iter().map(|o| o.start).filter(|&s| s > c.start).min().unwrap_or(u64::MAX);
            if label { c.start } else { next.min(c.section_end).max(c.start) }
        };
        let covering = symbols.iter().filter(|c| c.start <= address && address < end(c));
        let best = covering.max_by(|a, b| a.start.cmp(&b.start).then_with(|| a.preference.cmp(&b.preference)))?;
        Some(String::from_utf8_lossy(best.name).into_owned())
    }

    proptest! {
        #[test]
        fn settled_ranges_are_the_rule(
            symbols in proptest::collection::vec(
                (0u64..90, prop_oneof![Just(0u64), 1u64..40], 0u8..3, "[a-c_]{1,3}"), 0..25)
        ) {
            let symbols: Vec<_> = symbols
                .into_iter()
                .map(|(start, bytes, binding, name)| candidate((start, bytes, binding, name.leak())))
                .collect();
            let ranges = settle(symbols.clone());
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
            }
            for address in 0..140 {
                prop_assert_eq!(name_at(&ranges, address), linear(&symbols, address), "{}", address);
            }
        }
    }
}
