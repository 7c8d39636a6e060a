//! The executable. Its name selects the plugin, or the argument of `cni-plugins NAME`.

#![no_main]

use std::io::{self, Read, Write, stderr};

use cni::plugin::{find, serve};
use kernel::arena::Arena;
use plugins::SUITE;

#[global_allocator]
static ARENA: Arena = Arena::new();

/// `flannelctl install` looks for it.
#[used]
static MARK: &[u8] = cni::MARK;

kernel::start!(run);

fn run(args: Vec<String>) -> u8 {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let Some(plugin) = find(SUITE, &name).or_else(|| find(SUITE, &args.next()?)) else {
        return usage(&name);
    };
    let variable = |name: &str| std::env::var(name).ok();
    serve(plugin, SUITE, &variable, &mut Raw, &mut Raw, &mut stderr())
}

fn usage(name: &str) -> u8 {
    let names = SUITE.iter().map(|plugin| plugin.name()).collect::<Vec<_>>().join(", ");
    // If stderr is closed, there is nowhere to report to.
    let _ = writeln!(
        stderr(),
        "{name}: not the name of a plugin: install it as one of {names} (flannelctl install), or pass one as argument"
    );
    2
}

/// Standard input and output without std's line buffer, which would split the answer.
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
