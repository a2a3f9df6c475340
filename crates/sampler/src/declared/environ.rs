//! The text of `/proc/PID/environ`, piece by piece.
//!
//! **In**: pieces of the text (hostile; of other variables secret). **Out**: [`Declared`]. **Limits**: [`MAX_BYTES`] of
//! the text, [`MAX_VARIABLE_BYTES`] of a variable; what is past them is not looked at.

use std::io::{ErrorKind, Read};

use profile::Declared;
use zeroize::Zeroizing;

use super::attributes;

/// What is read of an environment at the most.
const MAX_BYTES: usize = 128 << 10;
/// What is read at once: what the kernel gives at once.
const PIECE_BYTES: usize = 4096;
/// One of the variables, name included.
const MAX_VARIABLE_BYTES: usize = 16 << 10;
const MAX_SERVICE_NAME_BYTES: usize = 255;

const SERVICE_NAME: &[u8] = b"OTEL_SERVICE_NAME=";
const RESOURCE_ATTRIBUTES: &[u8] = b"OTEL_RESOURCE_ATTRIBUTES=";

/// What the variable at hand is, as far as it was seen.
#[derive(Default)]
struct Scan {
    /// Its bytes so far, while they may be one of those that are looked for.
    variable: Zeroizing<Vec<u8>>,
    /// It is another, or too long.
    is_other: bool,
    service_name: Option<Option<String>>,
    attributes: Option<Vec<(std::sync::Arc<str>, std::sync::Arc<str>)>>,
}

/// What an environment declares; none where it declares nothing.
pub(super) fn declared(mut environ: impl Read) -> Option<Declared> {
    let mut scan = Scan::default();
    // Never grown, so that nothing is left behind.
    scan.variable.reserve_exact(MAX_VARIABLE_BYTES);
    let mut piece = Zeroizing::new([0; PIECE_BYTES]);
    let mut left = MAX_BYTES;
    while left > 0 {
        let wanted = left.min(PIECE_BYTES);
        let read = match environ.read(piece.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        scan.piece(piece.get(..read).unwrap_or_default());
        left -= read.min(left);
    }
    // A variable that was cut off by the limit is not one.
    if left > 0 {
        scan.end();
    }
    let declared = Declared {
        service_name: scan.service_name.flatten().map(Into::into),
        attributes: scan.attributes.unwrap_or_default(),
    };
    (declared != Declared::default()).then_some(declared)
}

impl Scan {
    fn piece(&mut self, bytes: &[u8]) {
        let mut parts = bytes.split(|&b| b == 0).peekable();
        while let Some(part) = parts.next() {
            self.part(part);
            if parts.peek().is_some() {
                self.end();
            }
        }
    }

    fn part(&mut self, bytes: &[u8]) {
        if self.is_other || bytes.is_empty() {
            return;
        }
        let known = self.variable.len();
        // Not kept before it is known not to be another's: the names alone are compared in place.
        let may_be = |name: &&[u8]| {
            let rest = name.get(known.min(name.len())..).unwrap_or_default();
            let common = rest.len().min(bytes.len());
            name.starts_with(self.variable.get(..known.min(name.len())).unwrap_or_default())
                && rest.get(..common) == bytes.get(..common)
        };
        let is_wanted = [SERVICE_NAME, RESOURCE_ATTRIBUTES].iter().any(may_be);
        if is_wanted && known + bytes.len() <= MAX_VARIABLE_BYTES {
            self.variable.extend_from_slice(bytes);
        } else {
            self.is_other = true;
        }
    }

    /// The variable is complete. The first of a name counts, as with `getenv`.
    fn end(&mut self) {
        if !self.is_other {
            if let Some(value) = self.variable.strip_prefix(SERVICE_NAME)
                && self.service_name.is_none()
            {
                let name = std::str::from_utf8(value.trim_ascii()).ok();
                let name = name.filter(|name| (1..=MAX_SERVICE_NAME_BYTES).contains(&name.len()));
                self.service_name = Some(name.map(ToOwned::to_owned));
            } else if let Some(value) = self.variable.strip_prefix(RESOURCE_ATTRIBUTES)
                && self.attributes.is_none()
            {
                self.attributes = Some(attributes::parse(value).unwrap_or_default());
            }
        }
        // As long as the vector is, not as its room is: nothing was written past its length but what was wiped before.
        self.variable.iter_mut().for_each(|b| *b = 0);
        self.variable.clear();
        self.is_other = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives a text in pieces of one size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let length = self.1.min(into.len());
            (&mut self.0).take(length as u64).read(into)
        }
    }

    fn of(text: &[u8]) -> Option<Declared> {
        let whole = declared(text);
        for size in [1, 2, 7, 19] {
            assert_eq!(declared(Pieces(text, size)), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn only_the_two_variables_count() {
        let text =
            b"PATH=/bin\0SECRET=x\0OTEL_SERVICE_NAME=cart\0OTEL_RESOURCE_ATTRIBUTES=a=b,c=d\0OTEL_SERVICE_NAMES=no\0";
        let found = of(text).unwrap();
        assert_eq!(found.service_name.as_deref(), Some("cart"));
        assert_eq!(found.attributes, [("a".into(), "b".into()), ("c".into(), "d".into())]);
        assert_eq!(of(b"PATH=/bin\0XOTEL_SERVICE_NAME=cart\0OTEL_SERVICE_NAME"), None);
        assert_eq!(of(b""), None);
    }

    #[test]
    fn the_first_of_a_name_counts_and_the_last_needs_no_end() {
        let found = of(b"OTEL_SERVICE_NAME=\0OTEL_SERVICE_NAME=late\0OTEL_RESOURCE_ATTRIBUTES=k=v").unwrap();
        assert_eq!(found.service_name, None);
        assert_eq!(found.attributes.len(), 1);
        assert_eq!(of(b"OTEL_RESOURCE_ATTRIBUTES=a=b,c\0OTEL_RESOURCE_ATTRIBUTES=a=b\0"), None, "ignored whole");
    }

    #[test]
    fn names_that_are_none() {
        for name in ["  ".to_owned(), "x".repeat(256)] {
            assert_eq!(of(format!("OTEL_SERVICE_NAME={name}\0").as_bytes()), None);
        }
        assert_eq!(of(b"OTEL_SERVICE_NAME=\xff\0"), None);
        assert_eq!(of(b"OTEL_SERVICE_NAME= a b \0").unwrap().service_name.as_deref(), Some("a b"));
    }

    #[test]
    fn an_environment_of_megabytes_is_read_to_its_limit() {
        struct Endless(usize, &'static [u8]);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                into.iter_mut().zip(self.1.iter().cycle()).for_each(|(to, from)| *to = *from);
                self.0 += into.len();
                Ok(into.len())
            }
        }
        for text in [&b"A=b\0"[..], b"x", b"\0", b"OTEL_SERVICE_NAME=", b"OTEL_RESOURCE_ATTRIBUTES=k=v,"] {
            let mut endless = Endless(0, text);
            assert_eq!(declared(&mut endless), None);
            assert_eq!(endless.0, MAX_BYTES);
        }
        let late = [vec![b'x'; MAX_BYTES - 10], b"\0OTEL_SERVICE_NAME=a\0".to_vec()].concat();
        assert_eq!(declared(late.as_slice()), None);
        let long = format!("OTEL_RESOURCE_ATTRIBUTES=k={}\0OTEL_SERVICE_NAME=a\0", "v".repeat(MAX_VARIABLE_BYTES));
        assert_eq!(of(long.as_bytes()).unwrap().service_name.as_deref(), Some("a"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(text: Vec<u8>, size in 1usize..50) {
            prop_assert_eq!(declared(Pieces(&text, size)), declared(text.as_slice()));
        }

        /// Whatever stands around it, and wherever the pieces end.
        #[test]
        fn a_name_is_found_anywhere(before in "[A-Z=a-z\u{0}]{0,300}", name in "[a-z]{1,50}", size in 1usize..50) {
            prop_assume!(!before.contains("OTEL_"));
            let text = format!("{before}\0OTEL_SERVICE_NAME={name}\0REST=1\0");
            let found = declared(Pieces(text.as_bytes(), size)).unwrap();
            prop_assert_eq!(found.service_name.as_deref(), Some(name.as_str()));
        }
    }
}
