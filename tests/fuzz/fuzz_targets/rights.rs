#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| event_manager_fuzz::rights(input));
