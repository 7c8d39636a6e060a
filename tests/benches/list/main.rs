//! The cost of a whole list of plugins, as a runtime runs it: bridge with masquerade, portmap, firewall, bandwidth and
//! tuning, each a process of its own. Ours and Debian's `containernetworking-plugins` by turns, in one sandbox.
//!
//! `cargo bench -p tests --bench list [-- --rounds N] [--pods N] [--plugins FILE]`. No time makes it fail; a plugin that
//! fails, or something of ours that is left behind, does.

#[path = "../attach/executable.rs"]
mod executable;
#[path = "../attach/report.rs"]
mod report;
mod side;

/// What the report of `attach` computes with.
mod measure {
    /// The value below which this part of the values is.
    pub fn quantile<T: Copy + PartialOrd>(values: &[T], part: f64) -> Option<T> {
        let mut sorted = values.to_vec();
        sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        sorted.get(((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1))).copied()
    }
}

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flannelctl::install::install;
use lab::netns::Room;
use lab::sandbox;
use lab::{Doing, Error};
use tests::need::Need;

use report::Row;
use side::{REFERENCE, Side};

/// Everything is below the sandbox's own /run, a tmpfs that goes with it.
const ROOT: &str = "/run/list";
/// How many at once.
const AT_ONCE: usize = 16;

/// The options on the command line.
struct Options {
    rounds: usize,
    pods: usize,
    plugins: Option<PathBuf>,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows its figures")]
fn main() -> ExitCode {
    match run() {
        Ok((text, whole)) => {
            println!("{text}");
            if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut args: impl Iterator<Item = OsString>) -> Result<Options, Error> {
    let mut options = Options { rounds: 50, pods: 1000, plugins: None };
    let wrong = || Error::Wrong("list [--rounds N] [--pods N] [--plugins FILE]".into());
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.to_str()?.parse().ok()).filter(|n| *n > 0).ok_or_else(wrong);
        match arg.to_str() {
            // cargo's own word
            Some("--bench") => {}
            Some("--rounds") => options.rounds = number()?,
            Some("--pods") => options.pods = number()?,
            Some("--plugins") => options.plugins = Some(args.next().ok_or_else(wrong)?.into()),
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

/// What was measured of one side.
#[derive(Debug, Default)]
struct Figures {
    /// Beside one other pod.
    add: Vec<Duration>,
    del: Vec<Duration>,
    /// Beside all pods.
    late: Vec<Duration>,
    /// All pods, 16 at a time, per second.
    rates: [Vec<f64>; 2],
    failures: usize,
    left: Option<String>,
}

fn run() -> Result<(String, bool), Error> {
    let options = options(std::env::args_os().skip(1))?;
    let me = std::env::current_exe().doing("find this executable")?;
    // target/PROFILE/deps/list-…
    let target = me.ancestors().nth(3).unwrap_or(Path::new("target"));
    let (plugins, word) = match options.plugins {
        Some(path) => (path, "as given".to_owned()),
        None => executable::release(target, std::env::var_os("CARGO").as_deref(), ("plugins", "cni-plugins"))?,
    };
    let plugins = fs::canonicalize(&plugins).doing(format_args!("find {}", plugins.display()))?;
    sandbox::enter()?;
    let (root, bin) = (Path::new(ROOT), Path::new(ROOT).join("bin"));
    fs::create_dir(root).doing(format_args!("make {ROOT}"))?;
    install(&plugins, &bin).doing("install the plugins")?;
    let go = Need::File(REFERENCE).absent().is_none().then(|| Side::new("go", Path::new(REFERENCE), 2));
    let sides: Vec<Side> = [Side::new("ours", &bin, 1)].into_iter().chain(go).collect();
    let rooms =
        |name: &str, count| (0..count).map(|n| Room::create(&format!("{name}{n}"))).collect::<Result<Vec<_>, _>>();
    let (keepers, pods) = (rooms("keeper", 2)?, rooms("pod", options.pods)?);
    let mut figures: Vec<Figures> = sides.iter().map(|_| Figures::default()).collect();
    for (side, room) in sides.iter().zip(&keepers) {
        side.add(room, 0)?;
    }
    for round in 0..options.rounds {
        for (side, figures) in sides.iter().zip(&mut figures) {
            let room = &pods[round % pods.len()];
            figures.add.push(timed(|| side.add(room, 1))?);
            figures.del.push(timed(|| side.del(room, 1))?);
        }
    }
    for (side, figures) in sides.iter().zip(&mut figures) {
        crowd(side, figures, &pods, &rooms(side.name, 1)?[0], options.rounds)?;
    }
    let none = Figures::default();
    let (ours, go) = (&figures[0], figures.get(1).unwrap_or(&none));
    let n = pods.len();
    let rows = [
        Row::times("the whole list, ADD", &ours.add, &go.add, "10×"),
        Row::times("the whole list, DEL", &ours.del, &go.del, "10×"),
        Row::times(&format!("ADD beside {n} pods"), &ours.late, &go.late, "1.2× of the first row"),
        Row::number("the same, to the first row", ratio(&ours.late, &ours.add), "≤ 1.2×"),
        Row::rates(&format!("{n} ADD, {AT_ONCE} at a time"), &ours.rates[0], &go.rates[0], "8×"),
        Row::rates(&format!("{n} DEL, {AT_ONCE} at a time"), &ours.rates[1], &go.rates[1], "8×"),
        Row::numbers(
            "calls of these that failed",
            ours.failures as u64,
            figures.get(1).map(|go| go.failures as u64),
            "0",
        ),
        Row::bytes(
            "the executable (Go: the six of this list)",
            size(&plugins)?,
            figures.get(1).map(|_| go_size()).transpose()?,
            "≤ 4 MB",
        ),
    ];
    let left = figures
        .iter()
        .zip(&sides)
        .filter_map(|(figures, side)| Some(format!("{}: {}", side.name, figures.left.as_ref()?)));
    let left: Vec<String> = left.collect();
    let text = format!(
        "{}\nTimes are p50 / p90 of {} lists of five executables. Executable: {word}. {}.\nLeft after all DELs: {}\n",
        report::table(&rows),
        options.rounds,
        report::machine(),
        if left.is_empty() { "nothing".to_owned() } else { left.join("\n") },
    );
    Ok((text, ours.failures == 0 && ours.left.is_none()))
}

fn size(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).doing(format_args!("look at {}", path.display())).map(|metadata| metadata.len())
}

fn go_size() -> Result<u64, Error> {
    let all = ["bridge", "host-local", "portmap", "firewall", "bandwidth", "tuning"];
    all.iter().map(|name| size(&Path::new(REFERENCE).join(name))).sum()
}

fn timed(work: impl FnOnce() -> Result<(), Error>) -> Result<Duration, Error> {
    let begun = Instant::now();
    work().map(|()| begun.elapsed())
}

fn ratio(one: &[Duration], other: &[Duration]) -> f64 {
    let middle = |times: &[Duration]| measure::quantile(times, 0.5).map_or(f64::NAN, |time| time.as_secs_f64());
    middle(one) / middle(other)
}

/// All pods, 16 at a time; one more beside them again and again; all out again.
fn crowd(side: &Side, figures: &mut Figures, pods: &[Room], one_more: &Room, rounds: usize) -> Result<(), Error> {
    let before = side::belongings()?;
    let begun = Instant::now();
    figures.failures += at_once(pods, |room, n| side.add(room, n + 1));
    figures.rates[0].push(pods.len() as f64 / begun.elapsed().as_secs_f64());
    for _ in 0..rounds {
        figures.late.push(timed(|| side.add(one_more, pods.len() + 1))?);
        side.del(one_more, pods.len() + 1)?;
    }
    let begun = Instant::now();
    figures.failures += at_once(pods, |room, n| side.del(room, n + 1));
    figures.rates[1].push(pods.len() as f64 / begun.elapsed().as_secs_f64());
    let after = side::belongings()?;
    figures.left = (before != after).then(|| side::difference(&before, &after));
    Ok(())
}

/// Does the work for each pod, 16 at a time. Returns how often it failed.
#[expect(clippy::print_stderr, reason = "a program that shows its figures")]
fn at_once(pods: &[Room], work: impl Fn(&Room, usize) -> Result<(), Error> + Sync) -> usize {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::atomic::AtomicUsize::new(0);
    let one = || {
        while let Some((n, room)) =
            Some(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).and_then(|n| Some((n, pods.get(n)?)))
        {
            if let Err(error) = work(room, n)
                && failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0
            {
                eprintln!("{error}");
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(one))));
    failed.into_inner()
}
