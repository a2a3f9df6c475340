//! `/proc/PID/maps`, from bytes: paths may hold anything, which is why text-based parsers do not do.

use objects::MappedFile;

use crate::sideband::MapRecord;

/// The executable mappings in the file's text, in its order. Lines that make no sense are left out; their number is
/// the second value.
pub(crate) fn executable_mappings(text: &[u8]) -> (Vec<MapRecord>, u64) {
    let mut bad = 0;
    let mappings = text
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| {
            let parsed = line_of(line);
            bad += u64::from(parsed.is_none());
            parsed.flatten()
        })
        .collect();
    (mappings, bad)
}

/// None: no line of this file. Some(None): not executable.
fn line_of(line: &[u8]) -> Option<Option<MapRecord>> {
    // `start-end perms offset major:minor inode      path`
    let mut fields = line.splitn(6, |&b| b == b' ');
    let mut range = fields.next()?.splitn(2, |&b| b == b'-');
    let (start, end) = (hex(range.next()?)?, hex(range.next()?)?);
    let executable = fields.next()?.get(2).copied()? == b'x';
    let offset = hex(fields.next()?)?;
    let mut device = fields.next()?.splitn(2, |&b| b == b':');
    let (major, minor) = (hex(device.next()?)?, hex(device.next()?)?);
    let inode = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    if !executable || start >= end {
        return Some(None);
    }
    let path = fields.next().unwrap_or_default();
    let blanks = path.iter().take_while(|&&b| b == b' ').count();
    let file = MappedFile {
        major: u32::try_from(major).ok()?,
        minor: u32::try_from(minor).ok()?,
        inode,
        generation: 0,
        path: unescape(path.get(blanks..).unwrap_or_default()),
    };
    Some(Some(MapRecord { start, end, offset, file }))
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The kernel writes a newline in a path as `\012` and escapes nothing else, not even the backslash.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_executable_lines_with_their_bytes() {
        let text = b"55a0-55b0 r--p 00000000 fd:01 12    /usr/bin/x\n\
            55b0-55c0 r-xp 00001000 fd:01 12         /usr/bin/a b\\012\xff (deleted)\n\
            7f00-7f10 rwxp 00000000 00:00 0 \n\
            7ff0-7ff8 r-xp 00000000 00:00 0          [vdso]\n\
            what is this\n";
        let (maps, bad) = executable_mappings(text);
        assert_eq!(bad, 1);
        let file =
            |major, minor, inode, path: &[u8]| MappedFile { major, minor, inode, generation: 0, path: path.to_vec() };
        assert_eq!(
            maps,
            [
                MapRecord {
                    start: 0x55b0,
                    end: 0x55c0,
                    offset: 0x1000,
                    file: file(0xfd, 1, 12, b"/usr/bin/a b\n\xff (deleted)")
                },
                MapRecord { start: 0x7f00, end: 0x7f10, offset: 0, file: file(0, 0, 0, b"") },
                MapRecord { start: 0x7ff0, end: 0x7ff8, offset: 0, file: file(0, 0, 0, b"[vdso]") },
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(text: Vec<u8>) {
            executable_mappings(&text);
        }
    }
}
