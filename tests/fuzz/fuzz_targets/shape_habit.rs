#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| qnet_hostile::shape::habit(data));
