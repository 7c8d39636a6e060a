//! Rules in the tables of iptables, with the chains, rules and comments of the reference plugins' iptables backends. They
//! are written only where a configuration names this backend.
//!
//! The desired rules are text as `iptables-save` prints them ([`Part`]). [`put`] reads the table with one run of
//! `iptables-save`, and makes what is missing with one of `iptables-restore --noflush`, which is one transaction:
//!
//! - The first read is necessary because `iptables-restore` cannot add a rule only if it is missing, and the base chains and
//!   the chains that attachments share may hold it.
//! - No lock of ours is held in between. A chain that attachments share is created by `-N`, which fails if another program
//!   was first; then everything is read again.
//! - The lock of `iptables-legacy` is waited for at most 5 s, and no program runs longer than 10 s
//!   ([`IptablesError::is_temporary`]).
//!
//! [`remove`] and [`collect`] need no configuration and no program for what `iptables-nft` wrote: that is removed over
//! netlink. For `iptables-legacy` they run its programs, if the kernel has a table of it.
//!
//! ```
//! use attachment::rules::iptables::{Line, Part, Place, Rule, Saved};
//! use kernel::types::Family;
//!
//! let rule = Rule::new(["-s", "10.1.2.3/32", "-j", "CNI-1"]);
//! let entry = Line { chain: "POSTROUTING".into(), place: Place::Last, rule };
//! let accept = Rule::new(["-d", "10.1.2.0/24", "-j", "ACCEPT"]);
//! let part = Part {
//!     own: [("CNI-1".to_owned(), vec![accept])].into(),
//!     entries: vec![entry],
//!     ..Part::new(Family::V4, "nat")
//! };
//! let found = Saved::parse("*nat\n:CNI-1 - [0:0]\n-A CNI-1 -d 10.1.2.0/24 -j ACCEPT\nCOMMIT\n");
//! assert_eq!(part.differences(&found), ["iptables -t nat -A POSTROUTING -s 10.1.2.3/32 -j CNI-1"]);
//! ```

pub mod masquerade;
mod plan;
pub mod portmap;
mod remove;
mod rule;
mod run;
#[cfg(test)]
mod tests;

use kernel::types::Family;

use super::support;

pub use masquerade::chain;
pub use plan::{Line, Part, Place, Removal, Saved};
pub use remove::{Collection, RemovalError, collect, may_hold, remove};
pub use rule::{Rule, clip_comment, host};
pub use run::IptablesError;

use plan::input;
use run::{Variant, restore, restorer, save};

/// How often a change is tried, because others may create or delete chains between read and write.
const TURNS: usize = 3;

/// Makes what is missing. On an error the families before the failed one are made.
///
/// # Errors
/// A program is missing, the lock is held, a line was refused, or a program reported success and did nothing.
pub fn put(parts: &[Part]) -> Result<(), IptablesError> {
    parts.iter().try_for_each(put_one)
}

fn put_one(part: &Part) -> Result<(), IptablesError> {
    let mut found = save(Variant::Chosen, part.family, part.table)?;
    for turn in 1..=TURNS {
        let Some(text) = input(part.table, &part.put(&found)) else { return Ok(()) };
        match restore(Variant::Chosen, part.family, &text) {
            Err(error) if error.is_refused() && turn < TURNS => {}
            outcome => outcome?,
        }
        // a program that fails inside, as for lack of memory, may report success
        found = save(Variant::Chosen, part.family, part.table)?;
        if part.is_made(&found) {
            return Ok(());
        }
    }
    Err(IptablesError::Undone { program: restorer(Variant::Chosen, part.family), table: part.table })
}

/// The contents of a table.
///
/// # Errors
/// A program is missing, did not end in time, or cannot read the table.
pub fn read(family: Family, table: &str) -> Result<Saved, IptablesError> {
    save(Variant::Chosen, family, table)
}

/// The commands that would make what is missing, for CHECK.
///
/// # Errors
/// A program is missing, or cannot read its table.
pub fn differences(parts: &[Part]) -> Result<Vec<String>, IptablesError> {
    let mut all = Vec::new();
    for part in parts {
        all.extend(part.differences(&save(Variant::Chosen, part.family, part.table)?));
    }
    Ok(all)
}

/// Checks that the programs can read and write `table`, without a change, for STATUS.
///
/// # Errors
/// A program is missing, the lock is held, or the kernel has no such table.
pub fn usable(table: &str) -> Result<(), IptablesError> {
    save(Variant::Chosen, Family::V4, table)?;
    restore(Variant::Chosen, Family::V4, &format!("*{table}\nCOMMIT\n"))
}
