//! Files that are not what a profiler expects, around machine code that runs all the same.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where the code stands in every file: a page's beginning, behind all headers.
pub const CODE_OFFSET: usize = 0x3000;

/// `uint64_t spin(uint64_t rounds)`: counts down, returns 0. No frame, no table, no symbol.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x48, 0xff, 0xcf, // dec rdi
    0x75, 0xfb, // jnz -5
    0x31, 0xc0, // xor eax, eax
    0xc3, // ret
];
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x04, 0x00, 0xf1, // subs x0, x0, #1
    0xe1, 0xff, 0xff, 0x54, // b.ne -4
    0xc0, 0x03, 0x5f, 0xd6, // ret
];

/// A name that is no text and breaks lines: a newline, a quote, a byte that is no UTF-8, markup.
pub const NAME: &[u8] = b"e<b>\n\"\xff'";

/// The files: each under a name that ends in [`NAME`].
///
/// # Errors
/// When they cannot be written.
pub fn files(folder: &Path, real: &Path) -> Result<Vec<PathBuf>> {
    let good = fs::read(real).with_context(|| real.display().to_string())?;
    let mut seed = 0x1234_5678_9abc_def1;
    let mut noise = |length: usize| -> Vec<u8> { (0..length).map(|_| random(&mut seed).to_le_bytes()[3]).collect() };
    let mut kinds: Vec<(&str, Vec<u8>)> = vec![
        ("noise", noise(0x8000)),
        ("zero", vec![0; 0x8000]),
        ("magic", [b"\x7fELF\x02\x01\x01".as_slice(), &noise(0x8000)].concat()),
        // A good head whose tables lie far outside of the file.
        ("head", [good.get(..64).unwrap_or_default(), &noise(0x8000)].concat()),
        ("cut", good.get(..good.len() * 2 / 3).unwrap_or_default().to_vec()),
    ];
    // A real file with one byte in sixteen of its head, tables and sections changed.
    let mut mutated = good.clone();
    let length = mutated.len();
    for byte in mutated.iter_mut().skip(16) {
        if random(&mut seed).is_multiple_of(16) {
            *byte = random(&mut seed).to_le_bytes()[5];
        }
    }
    kinds.push(("mutated", mutated));
    // Good headers, but counts and sizes as large as they can be.
    let mut huge = good;
    for field in huge.iter_mut().skip(32).take(length.min(4096)).filter(|b| **b == 0) {
        *field = 0xff;
    }
    kinds.push(("huge", huge));
    let mut paths = Vec::new();
    for (kind, mut bytes) in kinds {
        bytes.resize(bytes.len().max(CODE_OFFSET + 0x1000), 0);
        let place = bytes.get_mut(CODE_OFFSET..CODE_OFFSET + CODE.len()).context("the file has room")?;
        place.copy_from_slice(CODE);
        let path = folder.join(OsStr::from_bytes(&[kind.as_bytes(), b"-", NAME].concat()));
        fs::write(&path, &bytes)?;
        paths.push(path);
    }
    Ok(paths)
}

/// xorshift: the same files in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
