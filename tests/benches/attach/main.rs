//! The cost of one attachment: our plugins and Debian's `containernetworking-plugins` in turn, in one sandbox.
//!
//! `cargo bench -p tests --bench attach [-- --rounds N] [--plugins FILE]`; needs no root. No time makes it fail; a
//! plugin that fails, or something that is left behind, does.

mod call;
mod executable;
mod floor;
mod masquerade;
mod measure;
mod report;
mod side;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use flannelctl::install::install;
use kernel::Kernel;
use lab::netns::Room;
use lab::sandbox::{self, Right};
use lab::{Doing, Error};
use tests::need::Need;
use tests::strace::Counts;

use call::{Call, peak};
use floor::Floor;
use masquerade::Masquerade;
use measure::{Rates, Sample, Series};
use report::Row;
use side::{REFERENCE, Side};

/// Everything is below the sandbox's own /run, a tmpfs that goes with it.
const ROOT: &str = "/run/attach";
/// How many at once.
const AT_ONCE: usize = 16;
/// How many one after another.
const IN_A_ROW: usize = 50;

/// The options on the command line.
struct Options {
    rounds: usize,
    plugins: Option<PathBuf>,
}

/// All sides that are measured.
struct Sides {
    ours: Side,
    chain: Side,
    go: Option<Side>,
}

/// All that was measured.
#[derive(Default)]
struct Figures {
    ours: Series,
    chain: Series,
    go: Series,
    at_once: [Rates; 2],
    in_a_row: [Rates; 2],
    floor_at_once: Rates,
    nothing: Sample,
    floor: Sample,
    start: [Sample; 2],
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
    let mut options = Options { rounds: 200, plugins: None };
    while let Some(arg) = args.next() {
        let wrong = || Error::Wrong("attach [--rounds N] [--plugins FILE]".into());
        match arg.to_str() {
            // cargo's own word
            Some("--bench") => {}
            Some("--rounds") => {
                let number = args.next().and_then(|n| n.to_str()?.parse().ok()).filter(|n| *n > 0);
                options.rounds = number.ok_or_else(wrong)?;
            }
            Some("--plugins") => options.plugins = Some(args.next().ok_or_else(wrong)?.into()),
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

/// The report, and whether every call did what it must.
fn run() -> Result<(String, bool), Error> {
    let options = options(std::env::args_os().skip(1))?;
    let me = std::env::current_exe().doing("find this executable")?;
    // target/PROFILE/deps/attach-…
    let target = me.ancestors().nth(3).unwrap_or(Path::new("target"));
    let cargo = std::env::var_os("CARGO");
    let (plugins, word) = match options.plugins {
        Some(path) => (path, "as given".to_owned()),
        None => executable::release(target, cargo.as_deref(), ("plugins", "cni-plugins"))?,
    };
    let (least, _) = executable::release(target, cargo.as_deref(), ("floor", "floor"))?;
    let least = fs::canonicalize(&least).doing(format_args!("find {}", least.display()))?;
    let plugins = fs::canonicalize(&plugins).doing(format_args!("find {}", plugins.display()))?;
    let right = sandbox::enter()?;
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(std::process::id() as i32))
        .doing("become the parent of orphans")?;
    let sides = sides(&plugins)?;
    let mut host = Kernel::open().doing("open netlink")?;
    let floor = Floor::new(&least, &mut host)?;
    // A pod that stays, so that the bridges exist and are in use, as on a working host.
    let (keepers, pods) = (rooms("keeper", 3)?, rooms("pod", IN_A_ROW)?);
    for (side, room) in sides.all().into_iter().zip(&keepers) {
        side.run("ADD", room)?;
    }
    let root = Path::new(ROOT);
    let mut masquerade = Masquerade::new(&root.join("bin"), sides.go.as_ref().map(|_| Path::new(REFERENCE)), root)?;
    let figures = measure(&sides, &pods, (&mut host, &mut masquerade, &floor), options.rounds)?;
    let mut rows = rows(&sides, &figures);
    rows.extend(masquerade.rows());
    rows.extend(sizes(&sides, &pods, &plugins)?);
    rows.extend(counts(&sides, &pods, &floor, &mut host)?);
    let right = if right == Right::Root { "root" } else { "a user namespace" };
    let text = format!(
        "{}\nTimes are p50 / p90 of {} calls from posix_spawn to the end of the process, its answer read; ours and Go's by turns.\n\
         Executable: {word}. Go: {}. {}; as {right}.\n{}",
        report::table(&rows),
        options.rounds,
        go_version(&sides),
        report::machine(),
        figures.verdict(sides.go.is_some()),
    );
    Ok((text, figures.whole() && masquerade.whole()))
}

fn sides(plugins: &Path) -> Result<Sides, Error> {
    let root = Path::new(ROOT);
    let bin = root.join("bin");
    fs::create_dir(root).doing(format_args!("make {ROOT}"))?;
    install(plugins, &bin).doing("install the plugins")?;
    let go = Need::File(REFERENCE).absent().is_none();
    Ok(Sides {
        ours: Side::bridge(&bin, root, "ours", 81),
        chain: Side::flannel(&bin, root, "chain", 82)?,
        go: go.then(|| Side::bridge(Path::new(REFERENCE), root, "go", 83)),
    })
}

impl Sides {
    fn all(&self) -> Vec<&Side> {
        [&self.ours, &self.chain].into_iter().chain(&self.go).collect()
    }

    /// The sides that do the same work.
    fn alike(&self) -> impl Iterator<Item = (usize, &Side)> {
        std::iter::once(&self.ours).chain(&self.go).enumerate()
    }
}

fn rooms(name: &str, count: usize) -> Result<Vec<Room>, Error> {
    (0..count).map(|n| Room::create(&format!("{name}{n}"))).collect()
}

/// The call that only reports a plugin's version.
fn version(side: &Side, room: &Room) -> Call {
    side.call("VERSION", room)
}

fn measure(
    sides: &Sides,
    pods: &[Room],
    (host, masquerade, floor): (&mut Kernel, &mut Masquerade, &Floor),
    rounds: usize,
) -> Result<Figures, Error> {
    let nothing = Path::new(ROOT).join("nothing");
    call::write_nothing(&nothing).doing("write the smallest program")?;
    let nothing = Call { program: nothing, variables: Vec::new(), stdin: String::new() };
    let mut figures = Figures::default();
    for round in 0..rounds {
        let room = &pods[round % AT_ONCE];
        figures.ours.round(&sides.ours, room, host)?;
        if let Some(go) = &sides.go {
            figures.go.round(go, room, host)?;
        }
        figures.chain.round(&sides.chain, room, host)?;
        masquerade.round(round, room)?;
        floor.add(&mut figures.floor, host, room)?;
        if cfg!(target_arch = "x86_64") {
            figures.nothing.take(&nothing)?;
        }
        for (n, side) in sides.alike() {
            figures.start[n].take(&version(side, room))?;
        }
    }
    for _ in 0..12 {
        for (n, side) in sides.alike() {
            figures.at_once[n].at_once(side, &pods[..AT_ONCE])?;
        }
        floor.at_once(&mut figures.floor_at_once, host, &pods[..AT_ONCE])?;
    }
    for _ in 0..4 {
        for (n, side) in sides.alike() {
            figures.in_a_row[n].one_by_one(side, pods)?;
        }
    }
    Ok(figures)
}

fn rows(sides: &Sides, figures: &Figures) -> Vec<Row> {
    let Figures { ours, chain, go, at_once, in_a_row, floor_at_once, nothing, floor, start } = figures;
    let there = sides.go.is_some();
    let failed = |rates: &[Rates; 2]| format!("failed: {}, Go {}", rates[0].failures, rates[1].failures);
    vec![
        Row::times("bridge + host-local ADD", &ours.add.times, &go.add.times, "≤ 0.7 ms, 9×"),
        Row::times("the same DEL", &ours.del.times, &go.del.times, "≤ 1.2 ms, 17×"),
        Row::times("flannel → bridge → host-local ADD", &chain.add.times, &[], "≤ 0.9 ms"),
        Row::times("the same DEL", &chain.del.times, &[], ""),
        Row::rates(&format!("{AT_ONCE} ADD at once"), &at_once[0].add, &at_once[1].add, "8×, no failure"),
        Row::rates(
            &format!("{AT_ONCE} of that program that only sends at once"),
            &floor_at_once.add,
            &at_once[1].add,
            "",
        ),
        Row::rates(&format!("{AT_ONCE} DEL at once ({})", failed(at_once)), &at_once[0].del, &at_once[1].del, ""),
        Row::rates("200 ADD one by one", &in_a_row[0].add, &in_a_row[1].add, ""),
        Row::rates(&format!("200 DEL one by one ({})", failed(in_a_row)), &in_a_row[0].del, &in_a_row[1].del, ""),
        Row::times("CPU of an ADD", &ours.add.cpu, &go.add.cpu, ""),
        Row::times("CPU of a DEL, with what it leaves to a child", &ours.del.cpu, &go.del.cpu, ""),
        Row::numbers("page faults of an ADD", middle(&ours.add.faults), there.then(|| middle(&go.add.faults)), "≤ 60"),
        Row::times("start and end (VERSION)", &start[0].times, &start[1].times, ""),
        Row::times("the same of a program that only exits", &nothing.times, &[], ""),
        Row::times("a program that sends an ADD's messages and exits", &floor.times, &go.add.times, ""),
        Row::number("ADD, to that program", per(&ours.add.times, &floor.times), "≤ 1.5×"),
        Row::number("CPU of an ADD, to that program's", per(&ours.add.cpu, &floor.cpu), ""),
        Row::number("page faults of that program", middle(&floor.faults) as f64, ""),
    ]
}

/// The ratio of the medians.
fn per(one: &[Duration], other: &[Duration]) -> f64 {
    let middle = |times: &[Duration]| measure::quantile(times, 0.5).map_or(f64::NAN, |time| time.as_secs_f64());
    middle(one) / middle(other)
}

fn middle(values: &[u64]) -> u64 {
    measure::quantile(values, 0.5).unwrap_or_default()
}

/// Memory and executables.
fn sizes(sides: &Sides, pods: &[Room], plugins: &Path) -> Result<Vec<Row>, Error> {
    let room = &pods[0];
    let memory = |side: &Side, command| {
        let peak = peak(&side.call(command, room));
        side.run("DEL", room).and(peak)
    };
    let size = |path: &Path| fs::metadata(path).doing(format_args!("look at {}", path.display())).map(|m| m.len());
    let go_size = || -> Result<u64, Error> {
        Ok(size(&Path::new(REFERENCE).join("bridge"))? + size(&Path::new(REFERENCE).join("host-local"))?)
    };
    let go = sides.go.as_ref();
    let go_peak = go.map(|side| memory(side, "ADD")).transpose()?;
    Ok(vec![
        Row::bytes("memory peak of an ADD", memory(&sides.ours, "ADD")?, go_peak, "≤ 3 MB"),
        Row::bytes("memory peak of flannel's ADD", memory(&sides.chain, "ADD")?, None, "≤ 3 MB"),
        Row::bytes(
            "executable (Go: bridge and host-local)",
            size(plugins)?,
            go.map(|_| go_size()).transpose()?,
            "≤ 4 MB",
        ),
    ])
}

/// What strace counts: an ADD and a DEL of each side.
fn counts(sides: &Sides, pods: &[Room], floor: &Floor, host: &mut Kernel) -> Result<Vec<Row>, Error> {
    if let Some(absent) = Need::Program("strace").absent() {
        return Ok(vec![Row::text(&format!("system calls: {absent}"), String::new(), None, "")]);
    }
    let both = |side: &Side| -> Result<[Counts; 2], Error> {
        let dir = Path::new(ROOT);
        Ok([side.count("ADD", &pods[0], dir)?, side.count("DEL", &pods[0], dir)?])
    };
    same_messages(sides, &pods[0], floor, host)?;
    let text = |c: Counts| format!("{} / {} / {}", c.execs, c.calls, c.sends);
    let [ours, chain] = [both(&sides.ours)?, both(&sides.chain)?];
    let go = sides.go.as_ref().map(both).transpose()?;
    let what = |command: &str| format!("{command}: execve / system calls / netlink sends");
    Ok(vec![
        Row::text(&what("ADD"), text(ours[0]), go.map(|go| text(go[0])), "1 / ≤ 110 / ≤ 8"),
        Row::text(&what("DEL"), text(ours[1]), go.map(|go| text(go[1])), ""),
        Row::text(&what("flannel's ADD"), text(chain[0]), None, "1"),
        Row::text(&what("flannel's DEL"), text(chain[1]), None, ""),
    ])
}

/// The floor is valid only while our ADD sends the same messages.
fn same_messages(sides: &Sides, pod: &Room, floor: &Floor, host: &mut Kernel) -> Result<(), Error> {
    let dir = Path::new(ROOT);
    sides.ours.count("ADD", pod, dir)?;
    let ours = floor::sent(dir)?;
    sides.ours.run("DEL", pod)?;
    let least = floor.messages(host, pod, dir)?;
    if ours == least {
        return Ok(());
    }
    let (ours, least) = (ours.join("\n"), least.join("\n"));
    Err(Error::Wrong(format!("tests/floor does not send what ADD sends. ADD:\n{ours}\ntests/floor:\n{least}")))
}

fn go_version(sides: &Sides) -> &'static str {
    match sides.go {
        Some(_) => "Debian's containernetworking-plugins, which have no flannel",
        None => "absent (apt-get install containernetworking-plugins)",
    }
}

impl Figures {
    fn verdict(&self, go: bool) -> String {
        let word =
            |series: &Series| format!("{} link ends there, {} times something left", series.remains, series.left);
        let theirs = if go { format!("; Go: {}", word(&self.go)) } else { String::new() };
        format!("After DEL: {}; flannel's: {}{theirs}.", word(&self.ours), word(&self.chain))
    }

    /// Whether our calls did all that they must.
    fn whole(&self) -> bool {
        let clean = |series: &Series| series.remains == 0 && series.left == 0;
        clean(&self.ours) && clean(&self.chain) && self.at_once[0].failures == 0 && self.in_a_row[0].failures == 0
    }
}
