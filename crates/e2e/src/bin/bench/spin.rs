//! A load that says how far it has come: deep stacks that burn a CPU in user mode, counted.
//!
//! It is this program itself, started again with the word [`WORD`].

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use e2e::process::{Running, Start};

/// Has this program be the load.
pub(crate) const WORD: &str = "spin";
/// Frames of its stacks.
const DEPTH: u32 = 40;
/// Rounds between two looks at the file.
const ROUNDS: u64 = 1 << 22;

/// Never returns: counts its rounds into the first eight bytes of the file.
pub(crate) fn run(file: &Path) -> Result<()> {
    let file = File::create(file).with_context(|| file.display().to_string())?;
    deeper(DEPTH, &file)
}

#[inline(never)]
fn deeper(levels: u32, file: &File) -> Result<()> {
    if levels > 0 {
        // Not the last thing that it does: a jump instead of a call would leave no frame.
        return black_box(deeper(levels - 1, file));
    }
    let (mut rounds, mut state) = (0u64, 1u64);
    loop {
        for _ in 0..ROUNDS {
            state = black_box(state.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(17));
        }
        rounds += ROUNDS;
        file.write_all_at(&rounds.to_le_bytes(), 0)?;
    }
}

/// One that runs.
pub(crate) struct Spinning {
    /// Its process.
    pub(crate) running: Running,
    file: PathBuf,
}

impl Spinning {
    /// Starts one.
    pub(crate) fn start(name: &str, folder: &Path) -> Result<Self> {
        let file = folder.join(format!("{name}.rounds"));
        // Also where it was built anew meanwhile.
        let start = Start::new(name, "/proc/self/exe", folder).args([WORD]).args([&file]);
        Ok(Self { running: start.start()?, file })
    }

    /// Rounds so far; 0 before it has begun.
    pub(crate) fn rounds(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = File::open(&self.file).and_then(|file| file.read_exact_at(&mut bytes, 0));
        read.map_or(0, |()| u64::from_le_bytes(bytes))
    }
}
