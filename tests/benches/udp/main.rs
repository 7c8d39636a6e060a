//! The speed of TCP through the udp backend, through a plain read/send loop, and through the kernel's VXLAN, in turn,
//! between the same two namespaces.
//!
//! `cargo bench -p tests --bench udp [-- --rounds N] [--seconds S] [--queues N] [--only WAY]`; needs root for /dev/net/tun.

mod paths;

mod stream;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use lab::{Error, sandbox};

use paths::Paths;
use stream::{Carried, carry};

/// What is asked for on the command line.
struct Options {
    rounds: usize,
    seconds: u64,
    queues: usize,
    only: Option<String>,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows its figures")]
fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut args: impl Iterator<Item = OsString>) -> Result<Options, Error> {
    let mut options = Options { rounds: 7, seconds: 2, queues: flanneld::udp::queues(), only: None };
    while let Some(arg) = args.next() {
        let wrong = || Error::Wrong("udp [--rounds N] [--seconds S] [--queues N] [--only WAY]".into());
        let mut number =
            || args.next().and_then(|n| n.to_str()?.parse::<u32>().ok()).filter(|n| *n > 0).ok_or_else(wrong);
        match arg.to_str() {
            // cargo's own word
            Some("--bench") => {}
            Some("--rounds") => options.rounds = number()? as usize,
            Some("--seconds") => options.seconds = number()?.into(),
            Some("--queues") => options.queues = number()? as usize,
            Some("--only") => {
                options.only = Some(args.next().and_then(|way| way.into_string().ok()).ok_or_else(wrong)?)
            }
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

fn run() -> Result<String, Error> {
    let options = options(std::env::args_os().skip(1))?;
    if let Some(why) = kernel::tuntap::unavailable() {
        return Err(Error::Wrong(why));
    }
    sandbox::enter()?;
    let paths = Paths::build(options.queues)?;
    let wanted = |way: &str| options.only.as_deref().is_none_or(|only| way.contains(only));
    let ways: Vec<_> = Paths::ways().into_iter().filter(|(way, _)| wanted(way)).collect();
    let mut carried: Vec<Vec<Carried>> = vec![Vec::new(); ways.len()];
    for _ in 0..options.rounds {
        for ((_, to), carried) in ways.iter().zip(&mut carried) {
            let (from, at) = (paths.world.host(1)?, paths.world.host(2)?);
            carried.push(carry(from, at, *to, Duration::from_secs(options.seconds))?);
        }
    }
    let drops = paths.stop()?;
    let names: Vec<_> = ways.iter().map(|(way, _)| *way).collect();
    Ok(report(&names, &carried, &drops, &options))
}

/// The middle one.
fn middle(carried: &[Carried]) -> f64 {
    let mut rates: Vec<f64> = carried.iter().map(|c| c.bits_per_second).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(names: &[&str], carried: &[Vec<Carried>], drops: &[String], options: &Options) -> String {
    let ours = carried.first().map_or(f64::NAN, |carried| middle(carried));
    let mut lines = vec!["| way | middle | least … most | sent again | udp backend is |".to_owned()];
    lines.push("|---|---|---|---|---|".to_owned());
    for (name, carried) in names.iter().zip(carried) {
        let rates = || carried.iter().map(|c| c.bits_per_second);
        let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
        let again: u64 = carried.iter().map(|c| c.again).sum();
        let giga = |rate: f64| format!("{:.2}", rate / 1e9);
        let ratio = ours / middle(carried);
        lines.push(format!(
            "| {name} | {} Gbit/s | {} … {} | {again} | {ratio:.2} × |",
            giga(middle(carried)),
            giga(least),
            giga(most)
        ));
    }
    lines.push(format!(
        "One TCP stream, {} rounds of {} s by turns, {} pair(s) of threads per host; goals: 3 × the plain loop, 0.4 × VXLAN.\n\
         Dropped by the udp backend: {}.",
        options.rounds,
        options.seconds,
        options.queues,
        drops.join("; ")
    ));
    lines.join("\n")
}
