//! The runner. Each trial is this executable again, in a sandbox, for one test: what a test leaves behind goes with its
//! process, a test that hangs is killed, and `cargo test` and nextest both work, with root and without.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use lab::executables::Executables;
use lab::process::{become_child, ends_within};
use lab::{sandbox, world};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;

use crate::known::{self, Fault};
use crate::need::Need;
use crate::vm;

/// The first argument of a trial's own process …
const TRIAL: &str = "--trial";
/// … and of the one that finds out whether a sandbox can be had.
const PROBE: &str = "--probe";
/// Inside a virtual machine: run what it was booted for.
pub(crate) const GUEST: &str = "--guest";
/// How a line with a figure begins.
const FIGURE: &str = "figure: ";
/// Longer than any test may take, on a machine that has much else to do, too. Less than the runner's own limit
/// (.config/nextest.toml).
const LIMIT: Duration = Duration::from_secs(200);

/// What a test gives; the error is shown.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Its name: a sentence.
    pub name: &'static str,
    /// What the machine must have; a sandbox is always needed.
    pub needs: &'static [Need],
    /// What it does, in a fresh process in a sandbox of its own.
    pub run: fn() -> Outcome,
}

/// What the environment says, read by `main`.
#[derive(Debug, Default)]
pub struct Environment {
    /// The test binary: `t1`, `t2`, `vm`.
    pub tier: &'static str,
    /// REQUIRE_ALL=1: an absent need is a failure.
    pub require_all: bool,
    /// CARGO: builds the executables that the tests run.
    pub cargo: Option<OsString>,
}

/// Runs what the command line asks for, as libtest would.
pub fn main(tests: &'static [Test], environment: &Environment) -> ExitCode {
    if let Some(error) = become_child(std::env::args_os()) {
        return complain(&error);
    }
    if let Some(code) = special(tests) {
        return code;
    }
    match outside(tests, environment) {
        Ok(code) => code,
        Err(error) => complain(&*error),
    }
}

/// The same for tests that need another kernel: they are run in a virtual machine, all that are asked for in one.
pub fn main_in_vm(tests: &'static [Test], environment: &Environment) -> ExitCode {
    if let Some(error) = become_child(std::env::args_os()) {
        return complain(&error);
    }
    if let Some(code) = special(tests) {
        return code;
    }
    match outside_vm(tests, environment) {
        Ok(code) => code,
        Err(error) => complain(&*error),
    }
}

/// What this executable calls itself for.
fn special(tests: &[Test]) -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some(TRIAL), Some(name)) => Some(inside(tests, &name)),
        (Some(PROBE), None) => Some(probe()),
        (Some(GUEST), None) => Some(match vm::inside(run_trial) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        }),
        _ => None,
    }
}

fn outside_vm(tests: &'static [Test], environment: &Environment) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments = Arguments::from_args();
    let absent = vm::absent();
    if !arguments.list && absent.is_none() {
        Executables::beside(&std::env::current_exe()?, environment.cargo.as_deref())?;
    }
    let faults = faults(tests, environment)?;
    let names: Vec<&'static str> =
        tests.iter().map(|test| test.name).filter(|name| is_asked(&arguments, name)).collect();
    let trials = names.iter().map(|name| match &absent {
        None => {
            let (name, names, fault) = (*name, names.clone(), fault_of(&faults, name));
            Trial::test(name, move || shown(true, fault, vm::verdict(name, &names)?))
        }
        Some(absent) if environment.require_all => {
            let absent = absent.clone();
            Trial::test(*name, move || Err(absent.into()))
        }
        Some(_) => Trial::test(*name, || Ok(())).with_ignored_flag(true),
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let (Some(absent), false) = (absent, arguments.list || environment.require_all) {
        name_ignored(&names.iter().map(|name| (*name, absent.clone())).collect::<Vec<_>>());
    }
    Ok(conclusion.exit_code())
}

/// The tests of this binary that are expected to fail.
fn faults(tests: &[Test], environment: &Environment) -> Result<Vec<Fault>, String> {
    known::of(environment.tier, &tests.iter().map(|test| test.name).collect::<Vec<_>>())
}

fn fault_of(faults: &[Fault], name: &str) -> Option<Fault> {
    faults.iter().find(|fault| fault.test == name).copied()
}

/// As libtest has it.
fn is_asked(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn outside(tests: &'static [Test], environment: &Environment) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments = Arguments::from_args();
    // asked for a list, too: other runners take from it what is ignored
    let sandbox = why_no_sandbox()?;
    if !arguments.list && sandbox.is_none() {
        Executables::beside(&std::env::current_exe()?, environment.cargo.as_deref())?;
    }
    let faults = faults(tests, environment)?;
    let mut ignored = Vec::new();
    let mut trials = Vec::new();
    for test in tests {
        let absent = sandbox.clone().or_else(|| test.needs.iter().find_map(|need| need.absent()));
        let fault = fault_of(&faults, test.name);
        trials.push(match absent {
            None => Trial::test(test.name, move || trial(test.name, fault)),
            Some(absent) if environment.require_all => Trial::test(test.name, || Err(absent.into())),
            Some(absent) => {
                ignored.push((test.name, absent));
                Trial::test(test.name, || Ok(())).with_ignored_flag(true)
            }
        });
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        name_ignored(&ignored);
    }
    Ok(conclusion.exit_code())
}

#[expect(clippy::print_stderr, reason = "a test runner's own output")]
fn name_ignored(ignored: &[(&str, String)]) {
    for (name, absent) in ignored {
        eprintln!("ignored: {name}: {absent}");
    }
}

#[expect(clippy::print_stderr, reason = "the output of a trial is shown by its runner")]
fn complain(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

/// Why no sandbox can be had here; `None` when it can.
fn why_no_sandbox() -> std::io::Result<Option<String>> {
    let output = Command::new(std::env::current_exe()?).arg(PROBE).output()?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((!output.status.success()).then_some(words))
}

fn probe() -> ExitCode {
    match sandbox::enter().map_err(Into::into).and_then(|_| world::probe()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// Runs one test in a process of its own and gives its output when it fails.
fn trial(name: &str, fault: Option<Fault>) -> Result<(), Failed> {
    // two worlds at once would share the cores and spoil each other's figures, whichever runner starts them
    let turn = File::open(std::env::current_exe()?)?;
    flock(&turn, FlockOperation::LockExclusive)?;
    shown(false, fault, run_trial(name)?)
}

/// The verdict as the runner wants it, and the figures. A test that shows a known fault must fail.
fn shown(in_vm: bool, fault: Option<Fault>, (good, text): (bool, String)) -> Result<(), Failed> {
    show_figures(&text);
    let place = if in_vm { "in the virtual machine: " } else { "" };
    let verdict = match fault {
        Some(fault) => fault.judge(good, &text),
        None if good => Ok(()),
        None => Err(text),
    };
    verdict.map_err(|text| format!("{place}{text}").into())
}

/// True and what the test said, or false and that.
fn run_trial(name: &str) -> std::io::Result<(bool, String)> {
    let me = std::env::current_exe()?;
    let mut output = tempfile::tempfile()?;
    let (stdout, stderr) = (output.try_clone()?, output.try_clone()?);
    let mut child = Command::new(me).args([TRIAL, name]).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()?;
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::Error::other("no process number"))?;
    let ended = ends_within(pid, LIMIT)?;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    let mut text = String::new();
    output.rewind()?;
    output.read_to_string(&mut text)?;
    Ok(match (ended, status.success()) {
        (true, true) => (true, text),
        (true, false) => (false, format!("{status}\n{text}")),
        (false, _) => (false, format!("killed: not done within {} s\n{text}", LIMIT.as_secs())),
    })
}

/// A number that was measured: the runner shows it.
#[expect(clippy::print_stdout, reason = "a trial's standard output is read by its runner")]
pub fn figure(what: impl std::fmt::Display) {
    println!("{FIGURE}{what}");
}

/// Figures that a test measured are worth reading when it passes, too.
#[expect(clippy::print_stderr, reason = "a test runner's own output")]
fn show_figures(text: &str) {
    for line in text.lines().filter(|line| line.starts_with(FIGURE)) {
        eprintln!("{line}");
    }
}

fn inside(tests: &[Test], name: &str) -> ExitCode {
    let Some(test) = tests.iter().find(|test| test.name == name) else {
        return complain(&format!("no test is called {name:?}"));
    };
    match sandbox::enter().map_err(Into::into).and_then(|_| (test.run)()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// The executables, from inside a trial: they were built before it began.
pub fn executables() -> Result<Executables, Box<dyn std::error::Error>> {
    let me: PathBuf = std::env::current_exe()?;
    Ok(Executables::beside(&me, None)?)
}
