//! Has the linker put the functions that ADD and DEL run side by side, in the executable that is released.

/// Made by scripts/functions.
const LIST: &str = "functions.ld";

fn main() {
    println!("cargo::rerun-if-changed={LIST}");
    let says = |name: &str| std::env::var(name).unwrap_or_default();
    if says("CARGO_CFG_TARGET_ENV") == "musl" && says("PROFILE") == "release" {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}/{LIST}", says("CARGO_MANIFEST_DIR"));
    }
}
