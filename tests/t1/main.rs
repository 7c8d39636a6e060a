//! One plugin, one pod: and the kernel library that they stand on.

use std::process::ExitCode;

use tests::harness::{self, Environment, Test};
use tests::need::Need;

mod kernel;

/// A test function under its own name.
macro_rules! test {
    ($module:ident :: $name:ident $(, $need:expr)*) => {
        Test { name: concat!(stringify!($module), "::", stringify!($name)), needs: &[$($need),*], run: $module::$name }
    };
}

static TESTS: &[Test] = &[
    test!(kernel::what_is_written_is_read_back),
    test!(kernel::a_pair_is_born_in_two_namespaces),
    test!(kernel::a_vxlan_device_is_changed_in_place_where_that_is_possible),
    test!(kernel::other_links_are_made),
    test!(kernel::a_tap_device_is_made, Need::Root, Need::File("/dev/net/tun")),
    test!(kernel::a_refusal_is_in_the_kernels_words),
    test!(kernel::a_page_of_refusals_overruns_nothing),
    test!(kernel::a_refused_dump_is_not_an_empty_one),
    test!(kernel::a_deleted_link_is_gone_when_the_call_returns),
    test!(kernel::a_link_made_again_is_found_under_its_new_index),
];

fn main() -> ExitCode {
    let environment = Environment {
        require_all: std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1"),
        cargo: std::env::var_os("CARGO"),
    };
    harness::main(TESTS, &environment)
}
