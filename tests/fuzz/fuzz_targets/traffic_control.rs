#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("traffic_control", data));
