//! A flat table of a file's function symbols, in bytes that are looked up as they lie.
//!
//! ```text
//! magic 8 | base 8 | rows 4 | bytes of names 4 | rows x (start from base 4, bytes 4, name 4) | names, each ended by 0
//! ```
//!
//! Rows are sorted and do not overlap; numbers are little-endian. 12 bytes a function and its name, whatever the
//! file's size.
//!
//! **In** (of [`lookup`]): bytes that a worker made from a hostile file: every number in them is checked where it is
//! used. **Out**: a name of the table. **Units**: ELF addresses. **Limits**: [`Limits`].

use std::ops::Range;

use object::read::ReadRef;

use crate::build;
use crate::ranges::Settled;

const MAGIC: [u8; 8] = *b"symbols\x01";
const HEAD_BYTES: usize = 24;
const ROW_BYTES: usize = 12;
/// What linkage entries are called behind their function's name.
const PLT: &[u8] = b"@plt";
/// All rows lie in so many bytes from the first: what 32 bits say.
const MAX_SPAN: u64 = u32::MAX as u64;

/// Bounds on what is taken out of one file. What is above them is left out, the highest addresses first.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Symbols read.
    pub symbols: usize,
    /// Bytes of names kept.
    pub name_bytes: usize,
    /// Bytes of a string table read.
    pub string_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { symbols: 2_000_000, name_bytes: 128 << 20, string_bytes: 256 << 20 }
    }
}

/// Why [`extract`] refused a file.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not an ELF file, or its headers are broken.
    #[error("not a usable ELF file: {0}")]
    Elf(#[from] object::read::Error),
    /// More bytes of string table than allowed.
    #[error("a string table of {found} bytes is above the limit of {limit}")]
    TooLarge {
        /// The table's bytes.
        found: u64,
        /// [`Limits::string_bytes`].
        limit: u64,
    },
}

/// A symbol as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSymbol<'a> {
    /// The name's bytes; never empty.
    pub name: &'a [u8],
    /// The ELF addresses of the range that was found. Where functions are nested it may be a part of the function.
    pub addresses: Range<u64>,
}

/// Makes the table of a file's function symbols: of `.symtab`, or where that is stripped of `.dynsym` and of what a Go
/// program tells its own runtime; and of the entries of its procedure linkage table. Empty where there are none.
///
/// # Errors
/// No ELF file of 64 bits and little-endian, or a string table above the limit.
pub fn extract<'data>(file: impl ReadRef<'data>, limits: &Limits) -> Result<Vec<u8>, TableError> {
    Ok(write(&build::symbols(file, limits)?, limits))
}

pub(crate) fn write(symbols: &[Settled<'_>], limits: &Limits) -> Vec<u8> {
    let Some(base) = symbols.first().map(|s| s.start) else { return Vec::new() };
    let mut rows = Vec::with_capacity(symbols.len().saturating_mul(ROW_BYTES));
    let mut names: Vec<u8> = Vec::new();
    let limit = limits.name_bytes.min(u32::MAX as usize / 2);
    // The pieces of a function that others interrupt share its name.
    let mut last: Option<(&Settled<'_>, usize)> = None;
    for symbol in symbols {
        let start = symbol.start.saturating_sub(base);
        if start > MAX_SPAN || names.len().saturating_add(symbol.name.len() + PLT.len()) >= limit {
            break;
        }
        let name = match last {
            Some((before, name)) if before.same_symbol(symbol) => name,
            _ => {
                let name = names.len();
                names.extend_from_slice(symbol.name);
                names.extend_from_slice(if symbol.plt { PLT } else { b"" });
                names.push(0);
                name
            }
        };
        last = Some((symbol, name));
        let bytes = symbol.end.saturating_sub(symbol.start).min(MAX_SPAN);
        for number in [start, bytes, name as u64] {
            rows.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    let count = u32::try_from(rows.len() / ROW_BYTES).unwrap_or(u32::MAX);
    let name_bytes = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEAD_BYTES.saturating_add(rows.len()).saturating_add(names.len()));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&name_bytes.to_le_bytes());
    out.extend_from_slice(&rows);
    out.extend_from_slice(&names);
    out
}

/// The symbol that covers an ELF address. Allocates nothing; looks at some 20 rows of a large table.
#[must_use]
pub fn lookup(table: &[u8], address: u64) -> Option<RawSymbol<'_>> {
    let Parts { base, rows, names } = parts(table)?;
    let from_base = u32::try_from(address.checked_sub(base)?).ok()?;
    let above = rows.partition_point(|row| numbers(row).0 <= from_base);
    let (start, bytes, name) = numbers(rows.get(above.checked_sub(1)?)?);
    if from_base.checked_sub(start)? >= bytes {
        return None;
    }
    let name = names.get(name as usize..)?.split(|&b| b == 0).next()?;
    let first = base.checked_add(u64::from(start))?;
    let addresses = first..first.saturating_add(u64::from(bytes));
    (!name.is_empty()).then_some(RawSymbol { name, addresses })
}

/// The number of rows of a table.
#[must_use]
pub fn rows(table: &[u8]) -> usize {
    parts(table).map_or(0, |parts| parts.rows.len())
}

struct Parts<'a> {
    base: u64,
    rows: &'a [[u8; ROW_BYTES]],
    names: &'a [u8],
}

fn parts(table: &[u8]) -> Option<Parts<'_>> {
    let (magic, rest) = table.split_first_chunk::<8>()?;
    let (base, rest) = rest.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (name_bytes, rest) = rest.split_first_chunk::<4>()?;
    let row_bytes = (u32::from_le_bytes(*count) as usize).checked_mul(ROW_BYTES)?;
    let (rows, names) = rest.split_at_checked(row_bytes)?;
    let (rows, _) = rows.as_chunks::<ROW_BYTES>();
    let whole = names.len() == u32::from_le_bytes(*name_bytes) as usize;
    (*magic == MAGIC && whole).then_some(Parts { base: u64::from_le_bytes(*base), rows, names })
}

/// Start from the base, bytes, where the name starts.
fn numbers(row: &[u8; ROW_BYTES]) -> (u32, u32, u32) {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *row;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([i, j, k, l]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(rows: &[(u64, u64)], base: u64) -> (Vec<u8>, Vec<(u64, u64, String)>) {
        let mut at = base;
        let mut want = Vec::new();
        for (i, (gap, bytes)) in rows.iter().enumerate() {
            at += gap;
            want.push((at, at + bytes, format!("f{i}")));
            at += bytes;
        }
        let symbols: Vec<_> = want
            .iter()
            .map(|(start, end, name)| Settled { start: *start, end: *end, name: name.as_bytes(), plt: false })
            .collect();
        (write(&symbols, &Limits::default()), want)
    }

    proptest! {
        #[test]
        fn looking_up_is_a_linear_scan(
            rows in proptest::collection::vec((0u64..9, 1u64..9), 0..40),
            base in prop_oneof![Just(0u64), Just(0x40_0000), Just(0xffff_ffff_8000_0000)],
        ) {
            let (bytes, want) = table(&rows, base);
            for address in base.saturating_sub(3)..base + 400 {
                let scan = want.iter().find(|(start, end, _)| *start <= address && address < *end);
                let found = lookup(&bytes, address);
                // The addresses too: a name is taken to be that of all of them.
                let want = scan.map(|(start, end, name)| RawSymbol { name: name.as_bytes(), addresses: *start..*end });
                prop_assert_eq!(found, want);
            }
        }

        #[test]
        fn broken_tables_are_harmless(at in 0usize..200, byte: u8, keep in 0usize..300, address in 0u64..500) {
            let (mut bytes, _) = table(&[(1, 5), (0, 7), (3, 9)], 10);
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            bytes.truncate(keep);
            if let Some(symbol) = lookup(&bytes, address) {
                prop_assert!(!symbol.name.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..100), address: u64) {
            let head = [MAGIC.as_slice(), &bytes].concat();
            let _ = (lookup(&bytes, address), lookup(&head, address), rows(&head));
        }
    }

    #[test]
    fn limits_leave_out_the_end() {
        let symbols: Vec<_> = (0..10u64)
            .map(|i| Settled { start: i * 10, end: i * 10 + 10, name: b"name".as_slice(), plt: false })
            .collect();
        let distinct: Vec<Vec<u8>> = (0..10).map(|i| format!("name{i}").into_bytes()).collect();
        let symbols: Vec<_> = symbols.iter().zip(&distinct).map(|(s, n)| Settled { name: n, ..*s }).collect();
        let table = write(&symbols, &Limits { name_bytes: 22, ..Limits::default() });
        assert_eq!(rows(&table), 3);
        assert_eq!(lookup(&table, 25).unwrap().name, b"name2");
        assert_eq!(lookup(&table, 35), None);
    }
}
