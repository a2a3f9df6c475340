//! Names of kernel addresses.
//!
//! **In**: the content of /proc/kallsyms: trusted as far as the kernel is, but its modules' names are anybody's.
//! **Out**: names and modules. **Units**: kernel addresses. **Limits**: [`MAX_SYMBOLS`], [`MAX_TEXT_BYTES`],
//! [`MAX_MODULES`]; what is above them is left out. An address more than [`MAX_FUNCTION_BYTES`] above a symbol is not
//! the symbol's: the table tells no sizes.

use rustc_hash::FxHashMap;

use crate::pick::Preference;
use crate::text;

/// A large kernel has 200,000.
const MAX_SYMBOLS: usize = 2_000_000;
const MAX_TEXT_BYTES: usize = 128 << 20;
const MAX_MODULES: usize = 4096;
const MAX_KERNEL_NAME_BYTES: usize = 512;
const MAX_FUNCTION_BYTES: u64 = 256 << 10;

/// The kernel's own symbols, as /proc/kallsyms gives them: 14 bytes each and their names.
#[derive(Debug, Default)]
pub struct KernelSymbols {
    /// Sorted, each once.
    addresses: Vec<u64>,
    /// (where the name starts, module or 0) for each address. An empty name ends the function before it.
    rows: Vec<(u32, u16)>,
    /// All names, each ended by a newline.
    names: String,
    /// The first is the kernel itself.
    modules: Vec<String>,
    functions: usize,
    missing: Option<&'static str>,
}

/// A kernel function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSymbol<'a> {
    /// Its name; never empty.
    pub name: &'a str,
    /// The module that it belongs to; none for the kernel itself.
    pub module: Option<&'a str>,
}

/// A line of /proc/kallsyms.
struct Line<'a> {
    address: u64,
    kind: u8,
    name: &'a [u8],
    module: Option<&'a [u8]>,
}

impl KernelSymbols {
    /// Parses the content of /proc/kallsyms. Never fails: what cannot be used is left out.
    #[must_use]
    pub fn parse(kallsyms: &[u8]) -> Self {
        let lines = || kallsyms.split(|&b| b == b'\n').filter_map(line).take(MAX_SYMBOLS);
        let hidden = lines().next().is_some() && lines().all(|l| l.address == 0);
        // Data is not named, but ends the function before it.
        let mut found: Vec<Line<'_>> = lines().filter(|l| l.address != 0 && !is_padding(l)).collect();
        found.sort_by(|a, b| a.address.cmp(&b.address).then_with(|| preference(b).cmp(&preference(a))));
        found.dedup_by_key(|l| l.address);
        let mut out = Self { modules: vec![String::new()], ..Self::default() };
        let mut numbers: FxHashMap<&[u8], u16> = FxHashMap::default();
        for line in &found {
            let text = is_text(line);
            if !text && out.rows.last().is_none_or(|row| row.0 == 0) {
                continue;
            }
            out.push(line, text, &mut numbers);
        }
        // They stay for as long as the process does.
        out.addresses.shrink_to_fit();
        out.rows.shrink_to_fit();
        out.names.shrink_to_fit();
        out.missing = match (out.functions, hidden) {
            (1.., _) => None,
            (0, true) => Some("/proc/kallsyms hides its addresses: kernel.kptr_restrict, or CAP_SYSLOG is missing"),
            (0, false) => Some("/proc/kallsyms names no functions"),
        };
        out
    }

    fn push<'a>(&mut self, line: &Line<'a>, text: bool, numbers: &mut FxHashMap<&'a [u8], u16>) {
        if self.names.is_empty() {
            // Offset 0 is the empty name.
            self.names.push('\n');
        }
        let Ok(at) = u32::try_from(self.names.len()) else { return };
        if self.names.len() > MAX_TEXT_BYTES {
            return;
        }
        let (name, module) = if text {
            self.names.push_str(&text::from_bytes(line.name, MAX_KERNEL_NAME_BYTES));
            self.names.push('\n');
            self.functions = self.functions.saturating_add(1);
            (at, self.module(line.module, numbers))
        } else {
            (0, 0)
        };
        self.addresses.push(line.address);
        self.rows.push((name, module));
    }

    fn module<'a>(&mut self, name: Option<&'a [u8]>, numbers: &mut FxHashMap<&'a [u8], u16>) -> u16 {
        let Some(name) = name else { return 0 };
        if let Some(&number) = numbers.get(name) {
            return number;
        }
        let Some(number) = u16::try_from(self.modules.len()).ok().filter(|_| self.modules.len() < MAX_MODULES) else {
            return 0;
        };
        self.modules.push(text::from_bytes(name, MAX_KERNEL_NAME_BYTES));
        numbers.insert(name, number);
        number
    }

    /// The number of functions known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions
    }

    /// Whether no function is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions == 0
    }

    /// Why there are no names, where there are none; for the log.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        self.missing
    }

    /// The function at an address.
    #[must_use]
    pub fn lookup(&self, address: u64) -> Option<KernelSymbol<'_>> {
        let at = self.addresses.partition_point(|&a| a <= address).checked_sub(1)?;
        let start = *self.addresses.get(at)?;
        let (name, module) = *self.rows.get(at)?;
        if name == 0 || address.checked_sub(start)? >= MAX_FUNCTION_BYTES {
            return None;
        }
        let name = self.names.get(name as usize..)?.split('\n').next().filter(|n| !n.is_empty())?;
        let module = self.modules.get(usize::from(module)).filter(|m| !m.is_empty()).map(String::as_str);
        Some(KernelSymbol { name, module })
    }
}

/// `ffffffff81000000 T _stext` or `ffffffffc0000000 t init_module<tab>[ext4]`.
fn line(bytes: &[u8]) -> Option<Line<'_>> {
    let mut words = bytes.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty());
    let address = std::str::from_utf8(words.next()?).ok()?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let &[kind] = words.next()? else { return None };
    let name = words.next()?;
    let module = words.next().map(|m| m.strip_prefix(b"[").and_then(|m| m.strip_suffix(b"]")).unwrap_or(m));
    Some(Line { address, kind, name, module })
}

fn is_text(line: &Line<'_>) -> bool {
    // These stand behind the last function of a section.
    let end = matches!(line.name, b"_etext" | b"_einittext" | b"__end_of_kernel_reserve" | b"__irqentry_text_end");
    matches!(line.kind, b'T' | b't' | b'W' | b'w') && !end
}

/// The room before a function that kernels with patchable entries name like one: every second symbol, and no code.
fn is_padding(line: &Line<'_>) -> bool {
    line.name.starts_with(b"__pfx_")
}

fn preference<'a>(line: &Line<'a>) -> Preference<'a> {
    let binding = u8::from(line.kind.is_ascii_uppercase());
    Preference::new(is_text(line), binding, true, line.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KALLSYMS: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 t __do_one
ffffffff81000100 T do_one
ffffffff810001f0 W __pfx_weak_one
ffffffff81000200 W weak_one
ffffffff81000300 T _etext
ffffffff81800000 D some_data
ffffffffc0000000 t init_module\t[ext4]
ffffffffc0000200 t write_it\t[ext4]
ffffffffc0001000 d state\t[ext4]
ffffffffc0100000 t bpf_prog_f00d_go\t[bpf]
";

    #[test]
    fn functions_and_modules() {
        let symbols = KernelSymbols::parse(KALLSYMS.as_bytes());
        let check = |address, want: Option<(&str, Option<&str>)>| {
            let got = symbols.lookup(address).map(|s| (s.name, s.module));
            assert_eq!(got, want, "{address:x}");
        };
        assert_eq!((symbols.len(), symbols.missing()), (6, None));
        check(0, None);
        check(0xffff_ffff_80ff_ffff, None);
        check(0xffff_ffff_8100_0010, Some(("_text", None)));
        check(0xffff_ffff_8100_0100, Some(("do_one", None)));
        check(0xffff_ffff_8100_01ff, Some(("do_one", None)));
        check(0xffff_ffff_8100_02ff, Some(("weak_one", None)));
        check(0xffff_ffff_8100_0300, None);
        check(0xffff_ffff_8180_0000, None);
        check(0xffff_ffff_c000_0300, Some(("write_it", Some("ext4"))));
        check(0xffff_ffff_c000_1000, None);
        check(0xffff_ffff_c010_0001, Some(("bpf_prog_f00d_go", Some("bpf"))));
        check(u64::MAX, None);
    }

    #[test]
    fn hidden_addresses_say_so() {
        let symbols = KernelSymbols::parse(b"0000000000000000 T _stext\n0000000000000000 T do_one\n");
        assert!(symbols.is_empty());
        assert!(symbols.missing().unwrap().contains("kptr_restrict"));
        assert!(KernelSymbols::parse(b"").missing().unwrap().contains("names no functions"));
    }

    #[test]
    fn this_kernel() {
        let Ok(kallsyms) = std::fs::read("/proc/kallsyms") else { return };
        let symbols = KernelSymbols::parse(&kallsyms);
        if symbols.missing().is_some() {
            return;
        }
        let text = String::from_utf8_lossy(&kallsyms);
        let mut words = text.lines().find(|l| l.ends_with(" T vfs_read")).unwrap().split(' ');
        let address = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
        assert_eq!(symbols.lookup(address + 5), Some(KernelSymbol { name: "vfs_read", module: None }));
        assert!(symbols.len() > 10_000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..300), address: u64) {
            let _ = KernelSymbols::parse(&bytes).lookup(address);
        }

        #[test]
        fn looking_up_is_a_linear_scan(
            symbols in proptest::collection::btree_map(1u64..500, "[Ttd]", 1..40)
        ) {
            let lines: String = symbols.iter().map(|(a, kind)| format!("{a:x} {kind} s{a}\n")).collect();
            let known = KernelSymbols::parse(lines.as_bytes());
            for address in 0..520 {
                let below = symbols.range(..=address).next_back().filter(|(_, kind)| *kind != "d");
                let want = below.map(|(a, _)| format!("s{a}"));
                prop_assert_eq!(known.lookup(address).map(|s| s.name.to_owned()), want);
            }
        }
    }
}
