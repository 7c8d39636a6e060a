//! The vandal: a table of what a person or another program does to what traffic of our pods needs, one kind a row.
//!
//! After each row, within a bounded time, the host is as before and pods reach each other; or the status says what is wrong,
//! and the host is not ready where nothing flows; or traffic is shown not to be affected. One cluster serves many rows.

pub mod bridge;
pub mod device;
pub mod entries;
pub mod files;
pub mod foreign;
pub mod judge;
pub mod routes;
pub mod scene;
pub mod settings;
pub mod tables;

use std::io::Write as _;

pub use tables::Table;

/// What a row damages. A repair is seen in what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A device of the overlay.
    Device,
    /// An address.
    Address,
    /// A route.
    Route,
    /// A neighbour.
    Neighbour,
    /// A forwarding entry.
    Fdb,
    /// A sysctl.
    Setting,
    /// cni0.
    Bridge,
    /// A pod's port.
    Port,
    /// Packet rules.
    Rules,
    /// A file.
    File,
    /// The routing policy.
    Policy,
}

/// What must come of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is as before.
    Healed,
    /// The status has these words. It must have them whether traffic flows or not.
    Said(&'static str),
    /// As [`Verdict::Said`], and `/readyz` answers 503.
    Unready(&'static str),
    /// Traffic is not affected, for this reason.
    Harmless(&'static str),
}

/// A kind of damage.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What it damages.
    pub object: Object,
    /// What it does, in words.
    pub name: &'static str,
    /// What it does, for `sh` in host 1's namespace. [`scene::Scene`] sets the variables.
    pub damage: &'static str,
    /// What must come of it.
    pub verdict: Verdict,
    /// What undoes it where nobody else does.
    pub undo: &'static str,
}

/// A row that is repaired.
pub const fn healed(object: Object, name: &'static str, damage: &'static str) -> Row {
    Row { object, name, damage, verdict: Verdict::Healed, undo: "" }
}

impl Row {
    /// It is repaired, and leaves something of the vandal's own.
    pub const fn then(self, undo: &'static str) -> Self {
        Self { undo, ..self }
    }

    /// It does not affect traffic.
    pub const fn harmless(self, why: &'static str, undo: &'static str) -> Self {
        Self { verdict: Verdict::Harmless(why), undo, ..self }
    }

    /// The status says it.
    pub const fn said(self, words: &'static str, undo: &'static str) -> Self {
        Self { verdict: Verdict::Said(words), undo, ..self }
    }

    /// The status says it, and the host is not ready.
    pub const fn unready(self, words: &'static str, undo: &'static str) -> Self {
        Self { verdict: Verdict::Unready(words), undo, ..self }
    }
}

/// Without the drills every so many rows are tried: a table takes some seconds then.
fn slice() -> usize {
    if tests::vm::is_inside() { 16 } else { 3 }
}

/// The table's rows do what they say.
fn holds(table: &Table) -> crate::Outcome {
    let started = std::time::Instant::now();
    let (mut rows, mut times) = (0, Vec::new());
    let wrong = judge::all(table, if tests::harness::drills() { 1 } else { slice() }, |row, found| {
        rows += 1;
        if let judge::Found::Healed(took) = found {
            times.push(*took);
        }
        // shown when the test fails
        let _ = writeln!(std::io::stdout(), "{:?}: {}: {found}", row.object, row.name);
    })?;
    times.sort();
    tests::harness::figure(format_args!(
        "the vandal, {}: {rows} kinds in {:.0} s, {} of them repaired",
        table.title(),
        started.elapsed().as_secs_f64(),
        times.len()
    ));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

pub fn vxlan() -> crate::Outcome {
    holds(&tables::VXLAN)
}

pub fn a_host() -> crate::Outcome {
    holds(&tables::HOST)
}

pub fn pods() -> crate::Outcome {
    holds(&tables::PODS)
}

pub fn rules() -> crate::Outcome {
    holds(&tables::RULES)
}

pub fn ipv6() -> crate::Outcome {
    holds(&tables::V6)
}

pub fn host_gw() -> crate::Outcome {
    holds(&tables::HOST_GW)
}

pub fn ipip() -> crate::Outcome {
    holds(&tables::IPIP)
}

pub fn wireguard() -> crate::Outcome {
    holds(&tables::WIREGUARD)
}

pub fn udp() -> crate::Outcome {
    holds(&tables::UDP)
}
