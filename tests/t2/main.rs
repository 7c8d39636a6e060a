//! Many hosts: network namespaces with the real daemon and the real plugins in them.

use std::process::ExitCode;

use tests::harness::{self, Environment, Outcome, Test};

mod underlay;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident $(, $need:expr)*) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[$($need),*], run: $module::$name }
    };
}

static TESTS: &[Test] = &[
    test!(underlay::every_host_reaches_every_host),
    test!(underlay::a_bound_process_dies_with_its_parent),
    test!(underlay::nothing_is_left),
];

fn main() -> ExitCode {
    let environment = Environment {
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO"),
    };
    harness::main(TESTS, &environment)
}
