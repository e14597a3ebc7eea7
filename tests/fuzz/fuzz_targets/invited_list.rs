#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| qnet_hostile::pt::invited_list(data));
