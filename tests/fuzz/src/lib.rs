//! One target, by its name.

/// Runs the target, which panics if the input does harm.
pub fn run(name: &str, data: &[u8]) {
    let target = tests::targets::find(name).unwrap_or_else(|| panic!("no target is called {name}"));
    (target.run)(data);
}
