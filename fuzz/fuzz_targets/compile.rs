//! Any ELF file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| profiler_fuzz::use_file(file, &profiler_fuzz::stack()));
