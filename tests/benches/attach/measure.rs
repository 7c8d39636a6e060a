//! The measurements. Every side takes part in every round, so that other load on the machine affects all.

use std::time::Duration;

use kernel::Kernel;
use lab::netns::Room;
use lab::{Doing, Error};

use crate::call::{Call, Cost, race, settle};
use crate::side::{Side, host_end, remains, success};

/// One value per call, for one kind of call.
#[derive(Debug, Default)]
pub struct Sample {
    pub times: Vec<Duration>,
    pub cpu: Vec<Duration>,
    pub faults: Vec<u64>,
}

/// What came of attaching and detaching again and again.
#[derive(Debug, Default)]
pub struct Series {
    pub add: Sample,
    pub del: Sample,
    /// Ends of pairs that were there when their DEL had returned.
    pub remains: usize,
    /// Rounds after which something was left that was not there before.
    pub left: usize,
}

/// The rates per second of calls at once, or one after another.
#[derive(Debug, Default)]
pub struct Rates {
    pub add: Vec<f64>,
    pub del: Vec<f64>,
    pub failures: usize,
}

/// The median, and the 90th percentile.
pub fn quantile<T: Copy + PartialOrd>(values: &[T], part: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1))).copied()
}

impl Sample {
    /// Runs `call` and notes what it took, with what it left running.
    pub fn take(&mut self, call: &Call) -> Result<crate::call::Answer, Error> {
        let before = Cost::so_far()?;
        let answer = call.run().doing(format_args!("run {}", call.program.display()))?;
        self.times.push(answer.took);
        self.cost(before)?;
        success(call, &answer)?;
        Ok(answer)
    }

    fn cost(&mut self, before: Cost) -> Result<(), Error> {
        let cost = Cost::so_far()?.since(before);
        self.cpu.push(cost.cpu);
        self.faults.push(cost.faults);
        Ok(())
    }
}

impl Series {
    /// Attaches the pod in `room` and detaches it. Checks what is left right after DEL has returned, and again when
    /// every process has ended.
    pub fn round(&mut self, side: &Side, room: &Room, host: &mut Kernel) -> Result<(), Error> {
        let before = side.belongings(host)?;
        let answer = self.add.take(&side.call("ADD", room))?;
        settle()?;
        let cost = Cost::so_far()?;
        let call = side.call("DEL", room);
        let gone = call.run().doing(format_args!("run {}", call.program.display()))?;
        self.remains += remains(host, room, &host_end(&answer)?)?;
        success(&call, &gone)?;
        settle()?;
        self.del.times.push(gone.took);
        self.del.cost(cost)?;
        self.left += usize::from(side.belongings(host)? != before);
        Ok(())
    }
}

impl Rates {
    /// All pods of `rooms` at once, in and out again.
    pub fn at_once(&mut self, side: &Side, rooms: &[Room]) -> Result<(), Error> {
        for command in ["ADD", "DEL"] {
            let calls: Vec<_> = rooms.iter().map(|room| side.call(command, room)).collect();
            let (took, answers) = race(&calls).doing(format_args!("run {} times {command}", rooms.len()))?;
            self.failures += answers.iter().filter(|answer| !answer.status.success()).count();
            self.note(command, rooms.len(), took);
            settle()?;
        }
        Ok(())
    }

    /// One after another without a pause, all in and then all out again.
    pub fn one_by_one(&mut self, side: &Side, rooms: &[Room]) -> Result<(), Error> {
        for command in ["ADD", "DEL"] {
            let mut took = Duration::ZERO;
            for room in rooms {
                let answer = side.call(command, room).run().doing(command)?;
                self.failures += usize::from(!answer.status.success());
                took += answer.took;
            }
            self.note(command, rooms.len(), took);
            settle()?;
        }
        Ok(())
    }

    fn note(&mut self, command: &str, calls: usize, took: Duration) {
        let rates = if command == "ADD" { &mut self.add } else { &mut self.del };
        rates.push(calls as f64 / took.as_secs_f64());
    }
}
