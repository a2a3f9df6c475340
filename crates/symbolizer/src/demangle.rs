//! From a symbol's bytes to a name that people read.

use profile::SymbolName;

/// Makes a symbol's name readable.
#[must_use]
pub fn demangle(raw: &[u8]) -> SymbolName {
    let text = String::from_utf8_lossy(raw).into_owned();
    SymbolName { name: text.clone(), system_name: text }
}
