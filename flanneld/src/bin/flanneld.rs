//! flanneld

use std::process::ExitCode;

fn main() -> ExitCode {
    // a name or value that is no text belongs to nobody here
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    flanneld::run(&args, &env.collect())
}
