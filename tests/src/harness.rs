//! The test runner. It runs each test in a new process of this executable, in a sandbox. So everything that a test
//! leaves ends with its process, a test that hangs is killed, and both `cargo test` and nextest work, with and without
//! root.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
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

/// The first argument of a test's own process.
const TRIAL: &str = "--trial";
/// The first argument of the process that checks whether a sandbox is possible.
const PROBE: &str = "--probe";
/// The first argument inside a virtual machine: run the tests that it was booted for.
pub(crate) const GUEST: &str = "--guest";
/// The start of an output line with a measured figure.
const FIGURE: &str = "figure: ";
/// The time limit of a test, even on a busy machine. The runner's own limit is longer (.config/nextest.toml).
const LIMIT: Duration = Duration::from_secs(200);
/// The same when the drills try every point.
const LIMIT_OF_DRILLS: Duration = Duration::from_secs(4 * 3600);

/// The outcome of a test. An error is printed.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// The name, `module::sentence`.
    pub name: &'static str,
    /// What the machine must have. A sandbox is always needed.
    pub needs: &'static [Need],
    /// The test itself. It runs in a new process in its own sandbox.
    pub run: fn() -> Outcome,
}

/// The settings from the environment, which `main` reads.
#[derive(Debug, Default)]
pub struct Environment {
    /// The test binary: `t1`, `t2`, `t3`, `vm`.
    pub tier: &'static str,
    /// REQUIRE_ALL=1: a missing need is a failure.
    pub require_all: bool,
    /// CARGO: the program that builds the executables for the tests. With PREBUILT they are there, and are not built: each
    /// test of nextest's is a process, which would ask cargo.
    pub cargo: Option<OsString>,
    /// DRILLS=all: the drills try every point, however long that takes.
    pub drills: bool,
    /// IN_VM=1: the tests run on another kernel, in a virtual machine.
    pub in_vm: bool,
}

/// [`Environment::drills`] of this process.
static DRILLS: OnceLock<bool> = OnceLock::new();

/// Whether the drills try every point.
pub fn drills() -> bool {
    DRILLS.get().copied().unwrap_or_default()
}

/// Runs the tests that the command line selects, with libtest's options. In a virtual machine, each boot runs a group of them.
pub fn main(tests: &'static [Test], environment: &Environment) -> ExitCode {
    if let Some(error) = become_child(std::env::args_os()) {
        return complain(&error);
    }
    let _ = DRILLS.set(environment.drills);
    if let Some(code) = special(tests) {
        return code;
    }
    let outside = if environment.in_vm { outside_vm } else { outside };
    match outside(tests, environment) {
        Ok(code) => code,
        Err(error) => complain(&*error),
    }
}

/// Handles the calls of this executable to itself.
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
    // the machine has this one's files, and a TUN device of its own
    let lacks = |test: &Test| test.needs.iter().filter(|need| **need != Need::Tun).find_map(|need| need.absent());
    let asked = tests.iter().filter(|test| is_asked(&arguments, test.name));
    let asked: Vec<(&Test, Option<String>)> =
        asked.map(|test| (test, absent.clone().or_else(|| lacks(test)))).collect();
    let names: Vec<&'static str> =
        asked.iter().filter(|(_, absent)| absent.is_none()).map(|(test, _)| test.name).collect();
    let (mut ignored, mut trials) = (Vec::new(), Vec::new());
    for (test, absent) in asked {
        let (name, names, fault) = (test.name, names.clone(), fault_of(&faults, test.name));
        trials.push(match absent {
            None => Trial::test(name, move || shown(true, fault, vm::verdict(name, &names)?)),
            Some(absent) if environment.require_all => Trial::test(name, || Err(absent.into())),
            Some(absent) => {
                ignored.push((name, absent));
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
        });
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        name_ignored(&ignored);
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

/// Whether the arguments select the test, by libtest's rules.
fn is_asked(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn outside(tests: &'static [Test], environment: &Environment) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments = Arguments::from_args();
    // also needed for `--list`, from which other runners learn which tests are ignored
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

/// Why no sandbox is possible here; `None` if one is.
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

/// Runs one test in its own process. The error contains its output.
fn trial(name: &str, fault: Option<Fault>) -> Result<(), Failed> {
    // two tests at once would share the cores and change each other's figures, whichever runner starts them
    let turn = File::open(std::env::current_exe()?)?;
    flock(&turn, FlockOperation::LockExclusive)?;
    shown(false, fault, run_trial(name)?)
}

/// The outcome for the runner. Prints the figures. A test that shows a known fault must fail.
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

/// Whether the test passed, and its output.
fn run_trial(name: &str) -> std::io::Result<(bool, String)> {
    let me = std::env::current_exe()?;
    let mut output = tempfile::tempfile()?;
    let (stdout, stderr) = (output.try_clone()?, output.try_clone()?);
    let mut child = Command::new(me).args([TRIAL, name]).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()?;
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::Error::other("invalid process ID"))?;
    let limit = if drills() { LIMIT_OF_DRILLS } else { LIMIT };
    let ended = ends_within(pid, limit)?;
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
        (false, _) => (false, format!("killed: not done within {} s\n{text}", limit.as_secs())),
    })
}

/// Reports a measured figure, which the runner prints.
#[expect(clippy::print_stdout, reason = "a trial's standard output is read by its runner")]
pub fn figure(what: impl std::fmt::Display) {
    println!("{FIGURE}{what}");
}

/// Prints the figures of a test, even if it passed.
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

/// The executables, for use inside a test. They were built before the tests started.
pub fn executables() -> Result<Executables, Box<dyn std::error::Error>> {
    let me: PathBuf = std::env::current_exe()?;
    Ok(Executables::beside(&me, None)?)
}
