//! The plugins' drill: every command is killed before each of its calls, and fails at each of them; then DEL, GC or the
//! same command again leaves what was there before.
//!
//! What may be left of an attachment is what a whole ADD and DEL leave: the objects that attachments share.

pub mod rows;
pub mod stage;

use serde_json::Value;
use tests::drill::snapshot::Lines;
use tests::drill::{Calls, Change, Part, Point, failures, kills};
use tests::harness::{Outcome, drills, figure};

use crate::call::{Answer, Caller, Whose};
use rows::{Reach, Row};
use stage::{Stage, succeeded};

type Failure = Box<dyn std::error::Error>;

/// How many points are one slice's step. With it the slices of all rows take half a minute.
const STEP: usize = 89;

/// What cleans up after the disturbed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// DEL by the path, twice if the first one was disturbed.
    Del,
    /// DEL when the runtime has forgotten the path.
    DelWithoutPath,
    /// GC, for which the other pod is valid.
    Gc,
    /// The next ADD, CHECK of it, and DEL.
    Again,
    /// Nothing: the disturbed call changes nothing.
    Nothing,
}

/// A disturbed command, what comes after it, and whether another pod lives beside the one that it is for.
#[derive(Debug)]
struct Run(&'static str, End, bool);

const KILLED: &[Run] = &[
    Run("ADD", End::Del, false),
    Run("ADD", End::DelWithoutPath, true),
    Run("ADD", End::Gc, true),
    Run("ADD", End::Again, false),
    Run("DEL", End::Del, true),
    Run("DEL", End::DelWithoutPath, false),
    Run("DEL", End::Gc, true),
    Run("GC", End::Gc, true),
    Run("GC", End::Del, false),
    Run("CHECK", End::Nothing, true),
];

const FAILING: &[Run] = &[
    Run("ADD", End::Del, false),
    Run("DEL", End::Del, true),
    Run("GC", End::Gc, true),
    Run("CHECK", End::Nothing, false),
];

/// One function per row.
macro_rules! rows {
    ($($name:ident $row:ident),*) => {
        $(pub fn $name() -> Outcome {
            drill(&rows::$row)
        })*
    };
}

rows!(
    flannel FLANNEL, host_local HOST_LOCAL, bridge BRIDGE, bridge_with_rules BRIDGE_RULES,
    bridge_with_iptables BRIDGE_IPTABLES, bridge_with_vlan BRIDGE_VLAN, macvlan MACVLAN, firewall FIREWALL,
    firewall_by_iptables FIREWALL_IPTABLES, portmap PORTMAP, portmap_by_iptables PORTMAP_IPTABLES, ptp PTP, static_ipam STATIC, vxlan VXLAN, host_gw HOST_GW, direct_routing DIRECT_ROUTING, loopback LOOPBACK, bandwidth BANDWIDTH, tuning TUNING
);

fn drill(row: &Row) -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let part = if drills() { Part::Whole } else { Part::Slice(STEP) };
    let (mut tried, mut left) = (0, Vec::new());
    let is_refused = is_refused(&caller, row)?;
    let runs = KILLED.iter().map(|run| (run, true)).chain(FAILING.iter().map(|run| (run, false)));
    for (run, kill) in runs.filter(|(run, _)| run.is_for(row, is_refused)) {
        let whole = if is_refused { Whole::of_refused(&caller, row)? } else { Whole::of(&caller, row, run)? };
        let points = if kill { kills(&whole.calls) } else { failures(&whole.calls) };
        assert!(points.len() > 20, "{} of {} makes few calls: {:?}", run.0, row.name, whole.calls);
        for point in part.of(&format!("{} {run:?} {kill}", row.name), points) {
            match try_point(&caller, row, run, &whole, &point) {
                Ok(reached) => tried += usize::from(reached),
                Err(what) => left.push(format!("{run:?}: {point}: {what}")),
            }
        }
    }
    figure(format_args!("{}: {} points tried, {} wrong", row.name, tried + left.len(), left.len()));
    assert!(tried > 0 || !left.is_empty(), "{}: no point was tried", row.name);
    if left.is_empty() { Ok(()) } else { Err(format!("{}: {left:#?}", row.name).into()) }
}

/// Whether the kernel does not have what the row needs. What is drilled then is an ADD that is refused.
fn is_refused(caller: &Caller, row: &Row) -> Result<bool, Failure> {
    let stage = Stage::new(caller, row, false)?;
    let answer = stage.call("ADD", &stage.conf)?;
    succeeded(&stage.call("DEL", &stage.conf)?)?;
    stage.remove()?;
    Ok(answer.status == 1 && answer.stdout.contains("EOPNOTSUPP"))
}

impl Run {
    fn is_for(&self, row: &Row, is_refused: bool) -> bool {
        let Self(command, end, other) = self;
        if is_refused {
            return *command == "ADD" && !other && *end != End::Again;
        }
        match row.reach {
            Reach::Every => true,
            Reach::DelAndGc => *end != End::Again,
            Reach::Path => !matches!(end, End::DelWithoutPath | End::Gc) && *command != "GC",
        }
    }
}

/// What a run does that nobody disturbs.
struct Whole {
    calls: Calls,
    /// What ADD and DEL make that stays: what attachments share.
    made: Lines,
    /// What they change of what was there.
    gone: Lines,
}

impl Whole {
    fn of(caller: &Caller, row: &Row, Run(command, end, other): &Run) -> Result<Self, Failure> {
        let stage = Stage::new(caller, row, *other)?;
        let before = stage.state()?;
        let conf = prepare(&stage, command)?;
        let (answer, calls) = stage.calls(command, &conf)?;
        succeeded(&answer)?;
        if *command == "GC" && *end != End::Gc {
            // of what the GC removed, a killed one leaves any part
            succeeded(&stage.call_traced("ADD", &stage.conf)?)?;
        }
        clean(&stage, if *end == End::Gc { End::Gc } else { End::Del })?;
        let after = stage.state()?;
        stage.remove()?;
        Ok(Self { calls, made: known(after.difference(&before)), gone: known(before.difference(&after)) })
    }

    /// The same for an ADD that this kernel refuses.
    fn of_refused(caller: &Caller, row: &Row) -> Result<Self, Failure> {
        let stage = Stage::new(caller, row, false)?;
        let before = stage.state()?;
        let (_, calls) = stage.calls("ADD", &stage.conf)?;
        clean(&stage, End::Del)?;
        let after = stage.state()?;
        stage.remove()?;
        Ok(Self { calls, made: known(after.difference(&before)), gone: known(before.difference(&after)) })
    }

    /// What there is that must not be, and what is missing.
    fn compare(&self, before: &Lines, after: &Lines) -> Result<(), Failure> {
        let left: Vec<&String> = after.difference(before).filter(|line| !self.made.contains(bare(line))).collect();
        let lost: Vec<&String> = before.difference(after).filter(|line| !self.gone.contains(bare(line))).collect();
        if left.is_empty() && lost.is_empty() {
            return Ok(());
        }
        Err(format!("left: {left:?}, lost: {lost:?}").into())
    }
}

fn known<'a>(lines: impl Iterator<Item = &'a String>) -> Lines {
    lines.map(|line| bare(line).to_owned()).collect()
}

/// A line without how a link is: a new one's MAC is chosen at random, and what attachments share is completed by the next
/// ADD.
pub fn bare(line: &str) -> &str {
    line.split(" up ").next().unwrap_or(line)
}

/// Makes what the command needs, and gives its document.
fn prepare(stage: &Stage<'_>, command: &str) -> Result<Value, Failure> {
    if command == "ADD" {
        return Ok(stage.conf.clone());
    }
    let result = succeeded(&stage.call_traced("ADD", &stage.conf)?)?;
    Ok(if command == "GC" { stage.collected() } else { with_result(stage, result) })
}

fn with_result(stage: &Stage<'_>, result: Value) -> Value {
    let mut conf = stage.conf.clone();
    conf["prevResult"] = result;
    conf
}

/// Whether the point was reached. The error says what is wrong then.
fn try_point(
    caller: &Caller,
    row: &Row,
    Run(command, end, other): &Run,
    whole: &Whole,
    point: &Point,
) -> Result<bool, Failure> {
    let stage = Stage::new(caller, row, *other)?;
    let mut before = stage.state()?;
    let conf = prepare(&stage, command)?;
    if *end == End::Nothing {
        before = stage.state()?;
    }
    let answer = stage.disturbed(command, &conf, point)?;
    let outcome = answer.as_ref().map_or(Ok(()), |answer| {
        judge(&stage, command, point, answer)?;
        // what reports success has done its work
        if !(answer.status == 0 && matches!(*command, "DEL" | "GC")) {
            clean(&stage, *end)?;
        }
        whole.compare(&before, &stage.state()?)
    });
    stage.remove()?;
    outcome.map(|()| answer.is_some())
}

/// A call that failed in it answers with an error, or succeeds and has done its work. Only one that is killed says
/// nothing.
fn judge(stage: &Stage<'_>, command: &str, point: &Point, answer: &Answer) -> Result<(), Failure> {
    let refused = || format!("{command} answers {answer:?}");
    match (point.change, answer.status) {
        (Change::Kill, _) => Ok(()),
        (_, 0) if command == "ADD" => {
            let conf = with_result(stage, succeeded(answer)?);
            succeeded(&stage.call("CHECK", &conf)?)
                .map(drop)
                .map_err(|error| format!("{}, CHECK: {error}", refused()).into())
        }
        (_, 0) => Ok(()),
        // the write of the answer was the one that failed
        (_, 1) if answer.stdout.is_empty() && point.call == "write" => Ok(()),
        (_, 1) => {
            let error: Value = serde_json::from_str(&answer.stdout).map_err(|_| refused())?;
            let said = error["code"].as_u64().is_some() && error["msg"].as_str().is_some_and(|msg| !msg.is_empty());
            if said { Ok(()) } else { Err(refused().into()) }
        }
        _ if point.may_abort() => Ok(()),
        _ => Err(refused().into()),
    }
}

fn clean(stage: &Stage<'_>, end: End) -> Result<(), Failure> {
    let ended = match end {
        End::Del => stage.call("DEL", &stage.conf)?,
        End::DelWithoutPath => stage.call_without_path("DEL", &stage.conf)?,
        End::Gc => stage.call_traced("GC", &stage.collected())?,
        End::Nothing => return Ok(()),
        // the killed ADD had done all, so that the runtime has to call DEL first
        End::Again if stage.has_committed() => stage.call("DEL", &stage.conf)?,
        End::Again => {
            let result = succeeded(&stage.call("ADD", &stage.conf)?)?;
            let conf = with_result(stage, result);
            succeeded(&stage.call("CHECK", &conf)?)?;
            stage.call("DEL", &conf)?
        }
    };
    succeeded(&ended).map(drop).map_err(|error| format!("{end:?}: {error}").into())
}
