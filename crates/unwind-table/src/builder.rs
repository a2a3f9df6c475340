//! From rows in order of their addresses to a [`FileTable`].
//!
//! **In**: (ELF address, rule), ascending. **Out**: the table, and what it took. **Limits**: [`MAX_ROWS`]; [`MAX_RULES`] and the
//! rows of a block by the format. What is above them becomes [`Kind::UNSUPPORTED`](crate::Kind::UNSUPPORTED), and is counted.

use rustc_hash::FxHashMap;

use crate::format::{BLOCK_BITS, BLOCK_BYTES, MAX_BLOCKS, MAX_PAGE_BITS, MAX_RULES, MIN_PAGE_BITS, PLACE_BYTES};
use crate::rule::Rule;
use crate::table::FileTable;

/// Rows of one file; the largest seen have 1.3 million.
const MAX_ROWS: usize = 8_000_000;
/// Page sizes that are tried for each block; larger ones leave too few bits for the rule to win.
const NARROW_PAGE_BITS: std::ops::Range<u32> = MIN_PAGE_BITS..13;
/// A position in a block has 15 bits.
const MAX_BLOCK_HALVES: usize = 1 << 15;
/// Blocks up to this size are looked for among those that are there: code without rows gives the same ones again and again.
const SHARED_HALVES: usize = 64;

/// What building took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuilderStats {
    /// Rows that differ from the one before, without those that start blocks and pages.
    pub rows: u64,
    /// Rules.
    pub rules: u64,
    /// Bytes of the table: blocks, anchors, rules.
    pub bytes: u64,
    /// Pages, of all sizes.
    pub pages: u64,
    /// Pages whose rows have 4 bytes.
    pub wide_pages: u64,
    /// Rows of the largest page.
    pub largest_page: u64,
    /// Rows that were left out because there were too many of them.
    pub too_many_rows: u64,
    /// Rows whose rule was left out because there were too many.
    pub too_many_rules: u64,
    /// Blocks that were left out because they did not fit the format.
    pub too_large_blocks: u64,
}

/// Takes rows and makes the table.
#[derive(Debug)]
pub struct Builder {
    machine: u16,
    base: u64,
    end: u64,
    /// Bytes from `base`.
    starts: Vec<u32>,
    /// The rules of the same rows, as numbers in order of appearance.
    numbers: Vec<u16>,
    rules: Vec<Rule>,
    known: FxHashMap<Rule, u16>,
    /// How many rows have the rule.
    uses: Vec<u32>,
    last: Rule,
    stats: BuilderStats,
}

impl Builder {
    /// For code in a range of ELF addresses; what is more than [`MAX_BLOCKS`] blocks from its start has no rows.
    #[must_use]
    pub fn new(machine: u16, code: std::ops::Range<u64>) -> Self {
        let base = code.start & !(BLOCK_BYTES - 1);
        let most = base.saturating_add(u64::from(MAX_BLOCKS) << BLOCK_BITS);
        let mut builder = Self {
            machine,
            base,
            end: code.end.clamp(base, most),
            starts: Vec::new(),
            numbers: Vec::new(),
            rules: Vec::new(),
            known: FxHashMap::default(),
            uses: Vec::new(),
            last: Rule::GAP,
            stats: BuilderStats::default(),
        };
        // So that code without any row has a rule, and unsupported ones always have theirs.
        for rule in [Rule::GAP, Rule::UNSUPPORTED] {
            builder.number(rule);
        }
        builder
    }

    /// From this address on the rule holds. Addresses ascend; one that does not, or lies outside of the code, changes
    /// nothing. Of two rows at the same address the later holds.
    pub fn push(&mut self, address: u64, rule: Rule) {
        if address < self.base || address >= self.end {
            return;
        }
        let Ok(start) = u32::try_from(address.wrapping_sub(self.base)) else { return };
        match self.starts.last() {
            Some(&last) if last > start => return,
            Some(&last) if last == start => {
                self.starts.pop();
                self.numbers.pop();
                let before = self.numbers.last().and_then(|&n| self.rules.get(usize::from(n)));
                self.last = before.copied().unwrap_or(Rule::GAP);
            }
            _ => {}
        }
        if rule == self.last {
            return;
        }
        if self.starts.len() >= MAX_ROWS {
            self.stats.too_many_rows = self.stats.too_many_rows.saturating_add(1);
            return;
        }
        let number = self.number(rule);
        self.starts.push(start);
        self.numbers.push(number);
        self.last = rule;
    }

    /// The rule that holds behind the last row.
    #[must_use]
    pub fn last(&self) -> Rule {
        self.last
    }

    fn number(&mut self, rule: Rule) -> u16 {
        if let Some(&number) = self.known.get(&rule) {
            if let Some(uses) = self.uses.get_mut(usize::from(number)) {
                *uses = uses.saturating_add(1);
            }
            return number;
        }
        if self.rules.len() >= MAX_RULES as usize {
            self.stats.too_many_rules = self.stats.too_many_rules.saturating_add(1);
            return self.known.get(&Rule::UNSUPPORTED).copied().unwrap_or(0);
        }
        let number = u16::try_from(self.rules.len()).unwrap_or(u16::MAX);
        self.rules.push(rule);
        self.uses.push(1);
        self.known.insert(rule, number);
        number
    }

    /// Makes the table.
    #[must_use]
    pub fn finish(mut self) -> (FileTable, BuilderStats) {
        // Frequent rules get low numbers, so that rows of 2 bytes suffice for them.
        let mut order: Vec<u16> = (0..=u16::MAX).take(self.rules.len()).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(self.uses.get(usize::from(n)).copied().unwrap_or(0)));
        let mut renumbered = vec![0u16; self.rules.len()];
        for (new, &old) in (0u16..).zip(&order) {
            if let Some(number) = renumbered.get_mut(usize::from(old)) {
                *number = new;
            }
        }
        // The second rule of all: see `Builder::new`.
        let unsupported_rows = self.numbers.iter().filter(|&&number| number == 1).count() as u64;
        let renumber = |old: u16| renumbered.get(usize::from(old)).copied().unwrap_or(0);
        self.numbers.iter_mut().for_each(|number| *number = renumber(*number));

        let blocks = self.end.saturating_sub(self.base).div_ceil(BLOCK_BYTES);
        let mut writer = Writer::default();
        let (mut at, mut carried) = (0usize, renumber(0));
        let unsupported = renumber(1);
        for block in 0..blocks {
            let start = u32::try_from(block << BLOCK_BITS).unwrap_or(u32::MAX);
            let rest = self.starts.get(at..).unwrap_or_default();
            let count = rest.partition_point(|&n| n.wrapping_sub(start) >> BLOCK_BITS == 0);
            let rows: Vec<Row> = rest
                .iter()
                .zip(self.numbers.get(at..).unwrap_or_default())
                .take(count)
                .map(|(&n, &rule)| Row { at: n.wrapping_sub(start), rule })
                .collect();
            writer.block(&rows, carried, unsupported);
            carried = rows.last().map_or(carried, |row| row.rule);
            at = at.saturating_add(count);
        }
        let rules: Vec<Rule> = order.iter().filter_map(|&n| self.rules.get(usize::from(n)).copied()).collect();
        let mut stats = self.stats;
        stats.rows = self.starts.len() as u64;
        stats.rules = rules.len() as u64;
        stats.pages = writer.pages;
        stats.wide_pages = writer.wide_pages;
        stats.largest_page = writer.largest_page;
        stats.too_large_blocks = writer.too_large;
        stats.bytes = (writer.data.len() + writer.anchors.len() * 4 + rules.len() * 8) as u64;
        let table =
            FileTable::new(self.machine, self.base, (stats.rows, unsupported_rows), writer.anchors, rules, writer.data);
        (table, stats)
    }
}

/// A row of one block.
#[derive(Clone, Copy)]
struct Row {
    /// Below [`BLOCK_BYTES`].
    at: u32,
    rule: u16,
}

/// Rows of one page: the first is at its start.
struct Page<'a> {
    carried: Option<u16>,
    rows: &'a [Row],
}

impl Page<'_> {
    fn count(&self) -> usize {
        self.rows.len() + usize::from(self.carried.is_some())
    }

    /// Whether the largest rule's number fits beside a place in the page.
    fn is_narrow(&self, page_bits: u32) -> bool {
        let largest = self.rows.iter().map(|row| row.rule).chain(self.carried).max().unwrap_or(0);
        u32::from(largest) < 1 << (BLOCK_BITS - page_bits)
    }

    fn halves(&self, page_bits: u32) -> usize {
        if self.is_narrow(page_bits) { self.count() } else { self.count() * 2 }
    }
}

/// Calls back with each page of a block.
fn each_page(rows: &[Row], carried: u16, page_bits: u32, mut each: impl FnMut(&Page<'_>)) {
    let (mut rest, mut carried) = (rows, carried);
    for page in 0..1u32 << (BLOCK_BITS - page_bits) {
        let end = (page + 1) << page_bits;
        let count = rest.iter().take_while(|row| row.at < end).count();
        let (rows, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        let starts_itself = rows.first().is_some_and(|row| row.at == page << page_bits);
        each(&Page { carried: (!starts_itself).then_some(carried), rows });
        carried = rows.last().map_or(carried, |row| row.rule);
        rest = behind;
    }
}

fn halves(rows: &[Row], carried: u16, page_bits: u32) -> usize {
    let mut halves = (1usize << (BLOCK_BITS - page_bits)) + 1;
    each_page(rows, carried, page_bits, |page| halves += page.halves(page_bits));
    halves
}

#[derive(Default)]
struct Writer {
    data: Vec<u8>,
    anchors: Vec<u32>,
    shared: FxHashMap<Vec<u16>, u32>,
    /// Anchors of blocks with one rule.
    uniform: FxHashMap<u16, u32>,
    pages: u64,
    wide_pages: u64,
    largest_page: u64,
    too_large: u64,
}

impl Writer {
    fn block(&mut self, rows: &[Row], carried: u16, unsupported: u16) {
        // Files may say that they have very much code without rows: that costs as little as can be.
        if rows.is_empty()
            && let Some(&anchor) = self.uniform.get(&carried)
        {
            self.anchors.push(anchor);
            self.pages += 1;
            return;
        }
        let narrow = if rows.is_empty() { 0..0 } else { NARROW_PAGE_BITS };
        let sizes = narrow.chain([MAX_PAGE_BITS]).map(|bits| (halves(rows, carried, bits), bits));
        let (size, bits) = sizes.min().unwrap_or((usize::MAX, MAX_PAGE_BITS));
        if size > MAX_BLOCK_HALVES - 1 {
            self.too_large += 1;
            return self.block(&[], unsupported, unsupported);
        }
        let block = self.encode(rows, carried, bits);
        let place = if block.len() <= SHARED_HALVES
            && let Some(&place) = self.shared.get(&block)
        {
            place
        } else {
            self.data.resize(self.data.len().next_multiple_of(PLACE_BYTES as usize), 0);
            // Counted from 1, so that no block's anchor is 0.
            let place = u32::try_from(self.data.len() / PLACE_BYTES as usize + 1).unwrap_or(u32::MAX);
            self.data.extend(block.iter().flat_map(|half| half.to_le_bytes()));
            if block.len() <= SHARED_HALVES {
                self.shared.insert(block, place);
            }
            place
        };
        let anchor = ((bits - 1) << 28) | place;
        if rows.is_empty() {
            self.uniform.insert(carried, anchor);
        }
        self.anchors.push(anchor);
    }

    fn encode(&mut self, rows: &[Row], carried: u16, bits: u32) -> Vec<u16> {
        let pages = 1usize << (BLOCK_BITS - bits);
        let (mut index, mut out) = (Vec::with_capacity(pages + 1), Vec::new());
        let half = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let mut page_start = 0u32;
        each_page(rows, carried, bits, |page| {
            let is_narrow = page.is_narrow(bits);
            let position = u32::try_from(pages + 1 + out.len()).unwrap_or(u32::MAX);
            index.push(half(position << 1 | u32::from(!is_narrow)));
            self.pages += 1;
            self.wide_pages += u64::from(!is_narrow);
            self.largest_page = self.largest_page.max(page.count() as u64);
            let first = page.carried.map(|rule| Row { at: page_start, rule });
            for row in first.iter().chain(page.rows) {
                let at = row.at - page_start;
                if is_narrow {
                    out.push(half(at << (BLOCK_BITS - bits) | u32::from(row.rule)));
                } else {
                    out.extend([half(at), row.rule]);
                }
            }
            page_start += 1 << bits;
        });
        let end = u32::try_from(pages + 1 + out.len()).unwrap_or(u32::MAX);
        index.push(half(end << 1));
        index.extend(out);
        index
    }
}
