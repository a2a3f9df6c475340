//! Which of several names of one address is shown.

use std::cmp::Reverse;

/// What is known of a name. The greatest is shown.
///
/// In this order: a symbol with a size beats one without; global beats weak beats local; a function beats a label;
/// fewer leading underscores (`write` over `__write`); the shorter; the first in the alphabet, so that the choice
/// does not depend on the table's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Preference<'a> {
    pub(crate) sized: bool,
    /// 2 global, 1 weak, 0 local.
    pub(crate) binding: u8,
    pub(crate) function: bool,
    underscores: Reverse<usize>,
    length: Reverse<usize>,
    name: Reverse<&'a [u8]>,
}

impl<'a> Preference<'a> {
    pub(crate) fn new(sized: bool, binding: u8, function: bool, name: &'a [u8]) -> Self {
        let underscores = Reverse(name.iter().take_while(|&&b| b == b'_').count());
        Self { sized, binding, function, underscores, length: Reverse(name.len()), name: Reverse(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_people_know() {
        let check = |better: (bool, u8, bool, &str), worse: (bool, u8, bool, &str)| {
            let of = |p: (bool, u8, bool, &'static str)| Preference::new(p.0, p.1, p.2, p.3.as_bytes());
            let leak = |p: (bool, u8, bool, &str)| (p.0, p.1, p.2, &*p.3.to_owned().leak());
            assert!(of(leak(better)) > of(leak(worse)), "{better:?} {worse:?}");
        };
        check((true, 2, true, "write"), (true, 2, true, "__write"));
        check((true, 2, true, "__libc_start_main"), (true, 0, true, "start"));
        check((true, 1, true, "puts"), (true, 0, true, "_IO_puts"));
        check((true, 2, true, "_ZN1AC1Ev"), (true, 2, true, "_ZN1AC2Ev"));
        check((true, 0, true, "f"), (false, 2, true, "text_start"));
        check((false, 0, true, "f"), (false, 0, false, "l"));
    }
}
