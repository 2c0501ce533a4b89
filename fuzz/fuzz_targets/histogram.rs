#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tuplelab_fuzz::histogram(bytes));
