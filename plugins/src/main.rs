//! The executable: which plugin it is, it is told by its name, or as `cni-plugins NAME`.

use std::io::{self, Read, Write, stderr};
use std::process::ExitCode;

use cni::plugin::{find, serve};
use kernel::arena::Arena;
use plugins::SUITE;

#[global_allocator]
static ARENA: Arena = Arena::new();

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let Some(plugin) = find(SUITE, &name).or_else(|| find(SUITE, &args.next()?)) else {
        return usage(&name);
    };
    let variable = |name: &str| std::env::var(name).ok();
    serve(plugin, SUITE, &variable, &mut Raw, &mut Raw, &mut stderr()).into()
}

fn usage(name: &str) -> ExitCode {
    let names = SUITE.iter().map(|plugin| plugin.name()).collect::<Vec<_>>().join(", ");
    // nowhere is left to report to when stderr is gone
    let _ = writeln!(
        stderr(),
        "{name}: not the name of a plugin: install it as one of {names} (flannelctl install), or give one as argument"
    );
    ExitCode::from(2)
}

/// Standard input and output without std's line buffer, which would cut the answer in two.
struct Raw;

impl Read for Raw {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(io::stdin(), buf)?)
    }
}

impl Write for Raw {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
