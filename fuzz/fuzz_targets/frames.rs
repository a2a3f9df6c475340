//! Any `.eh_frame`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|section: &[u8]| profiler_fuzz::use_file(&profiler_fuzz::elf(section), &profiler_fuzz::stack()));
