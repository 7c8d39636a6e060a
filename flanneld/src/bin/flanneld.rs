//! flanneld

use std::process::ExitCode;

fn main() -> ExitCode {
    // A name or value that is not UTF-8 matches no flag.
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    flanneld::run(&args, &env.collect())
}
