//! From a symbol's bytes to a name that people read.
//!
//! **In**: a name from a symbol table, hostile. **Out**: [`SymbolName`]. **Limits**: [`MAX_MANGLED_BYTES`] of what
//! goes in, [`MAX_NAME_BYTES`] of what comes out; a name beyond the first is shown as it is, cut.

use profile::SymbolName;

use crate::text::{MAX_NAME_BYTES, from_bytes, shown};

/// Bytes of a name that is demangled; templates of C++ come to some thousand.
pub(crate) const MAX_MANGLED_BYTES: usize = 16 << 10;

/// Makes a symbol's name readable: Rust (v0 and legacy) and C++ are demangled, everything else stays as it is.
///
/// Neither text is ever empty; control characters and invalid UTF-8 are replaced by U+FFFD.
#[must_use]
pub fn demangle(raw: &[u8]) -> SymbolName {
    let text = from_bytes(raw, MAX_MANGLED_BYTES);
    let text = if text.is_empty() { "[empty]".to_owned() } else { text };
    let mangled = raw.len() <= MAX_MANGLED_BYTES && (text.starts_with("_Z") || text.starts_with("_R"));
    let name = if mangled {
        // A version (`@@GLIBC_2.34`) or `@plt` is no part of what is mangled.
        let (mangled, rest) = text.split_at(text.find('@').unwrap_or(text.len()));
        let readable = format!("{}{rest}", symbolic_demangle::demangle(mangled));
        let readable = shown(&readable, MAX_NAME_BYTES);
        if readable.is_empty() { shown(&text, MAX_NAME_BYTES).into_owned() } else { readable.into_owned() }
    } else {
        shown(&text, MAX_NAME_BYTES).into_owned()
    };
    SymbolName { name, system_name: shown(&text, MAX_NAME_BYTES).into_owned(), ..SymbolName::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn languages() {
        let check = |raw: &str, want: &str| {
            let got = demangle(raw.as_bytes());
            assert_eq!((got.name.as_str(), got.system_name.as_str()), (want, raw));
        };
        check("main", "main");
        check("runtime.mallocgc", "runtime.mallocgc");
        check("go:main.(*T).F-fm", "go:main.(*T).F-fm");
        check("_ZN3foo3barEi", "foo::bar(int)");
        check("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)");
        check("_ZN3foo3barEi.cold", "foo::bar(int) [clone .cold]");
        check("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad");
        check("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar");
        check("_start", "_start");
        check("_ZN3foo3barEi@plt", "foo::bar(int)@plt");
        check("_Znonsense", "_Znonsense");
        assert_eq!(demangle(b"").name, "[empty]");
        assert_eq!(demangle(b"a\nb").name, "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_line(head in "_Z|_R|_ZN|", raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let got = demangle(&[head.as_bytes(), &raw].concat());
            for text in [&got.name, &got.system_name] {
                prop_assert!(!text.is_empty() && text.len() <= MAX_NAME_BYTES + 3);
                prop_assert!(!text.chars().any(char::is_control));
            }
        }

        #[test]
        fn any_mangled_letters_end(raw in "(_Z|_R)[A-Za-z0-9_]{0,400}") {
            prop_assert!(!demangle(raw.as_bytes()).name.is_empty());
        }
    }
}
