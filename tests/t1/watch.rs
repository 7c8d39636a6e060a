//! A thread keeps a table of ours in order, as the daemon does, while another program changes its own by thousands of
//! elements.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use kernel::Kernel;
use kernel::nft::{
    Base, Batch, ChainKind, Element, Hook, Is, Nft, NftFamily, NftWatch, RuleBuilder, Set, Side, Table, TableKey, Type,
    Value,
};
use kernel::state::{NftChain, NftScope, NftSet, NftTable, Scope, State};
use lab::wait::eventually;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tests::harness::{Outcome, figure};

const ELEMENTS: u16 = 10_000;
/// A damage must be mended within this time.
const BOUND: Duration = Duration::from_secs(1);
/// The CPU time that another program's 10,000 elements may cost the thread.
const GOAL: Duration = Duration::from_millis(50);
/// How long the thread waits for a change before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(60);

/// What the thread has done so far.
#[derive(Default)]
struct Holder {
    stop: AtomicBool,
    /// Its CPU time in microseconds.
    cpu: AtomicU64,
    /// How often it converged.
    passes: AtomicU64,
    /// How often it waited for a change without result.
    idle: AtomicU64,
}

fn ours() -> TableKey {
    TableKey::new(NftFamily::Inet, "held")
}

/// Chains, rules and a set with some elements, and the whole table in scope.
fn desired() -> (State, Scope) {
    let rule = || RuleBuilder::new(NftFamily::Inet);
    let base = Base::new(ChainKind::Filter, Hook::Forward, 0);
    let net = "10.1.0.0/16".parse().unwrap();
    let enter = rule().addr(Side::Source, Is::Eq, net).jump("pods").done();
    let pods = [rule().addr(Side::Destination, Is::Eq, net).back().done(), rule().accept().comment("the rest")];
    let set = NftSet::new(Set::new("ports", [Type::InetService]), (0..100).map(port));
    let table = NftTable {
        comment: None,
        dormant: false,
        chains: [("forward".to_owned(), NftChain::at(base, [enter])), ("pods".to_owned(), NftChain::regular(pods))]
            .into(),
        sets: [("ports".to_owned(), set)].into(),
    };
    let state = State { nft: [(ours(), table)].into(), ..State::default() };
    (state, Scope { nft: [(ours(), NftScope::Whole)].into(), ..Scope::default() })
}

fn port(number: u16) -> Element {
    Element::new([Value::Port(number)])
}

impl Holder {
    /// Waits for changes and mends, until it is stopped.
    fn hold(&self) {
        let ((state, scope), mut kernel) = (desired(), Kernel::open().unwrap());
        let mut watch = NftWatch::open([ours()]).unwrap();
        let mut dirty = true;
        while !self.stop.load(Relaxed) {
            if dirty {
                // a table that others keep changing may not be readable now
                dirty = match kernel.converge(&state, &scope, None) {
                    Ok(outcome) => !outcome.is_whole(),
                    Err(error) if error.is_retryable() => true,
                    Err(error) => panic!("{error}"),
                };
                self.passes.fetch_add(1, Relaxed);
            }
            let changed = !watch.wait(PATIENCE).unwrap().is_empty();
            dirty |= changed;
            self.idle.fetch_add(u64::from(!dirty), Relaxed);
            let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
            self.cpu.store((usage.user_time() + usage.system_time()).num_microseconds() as u64, Relaxed);
        }
    }

    /// Waits until no announcement is left; returns the CPU time and the passes so far.
    fn so_far(&self) -> (Duration, u64) {
        let wanted = self.idle.load(Relaxed) + 2;
        let look = || match self.idle.load(Relaxed) {
            idle if idle >= wanted => Ok(()),
            _ => Err(format!("{} passes", self.passes.load(Relaxed))),
        };
        eventually("the thread that holds the table has nothing to do", Duration::from_secs(60), look).unwrap();
        (Duration::from_micros(self.cpu.load(Relaxed)), self.passes.load(Relaxed))
    }

    /// What `work` costs the thread.
    fn cost(&self, what: &str, work: impl FnOnce()) {
        let (cpu, passes) = self.so_far();
        work();
        let (after, passes_after) = self.so_far();
        let (spent, passes) = (after - cpu, passes_after - passes);
        figure(format_args!("{what}: {spent:.1?} of CPU, {passes} passes"));
        assert!(spent <= GOAL, "{what}: it cost {spent:?} of CPU, more than {GOAL:?}, in {passes} passes");
    }
}

/// What another program, or an administrator, does to our table.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Rule,
    Chain,
    Elements,
}

impl Damage {
    const ALL: [Self; 3] = [Self::Rule, Self::Chain, Self::Elements];

    fn stage(self, nft: &mut Nft, batch: &mut Batch) {
        match self {
            Self::Rule => batch.delete_rule(&ours(), "pods", nft.rules(&ours(), Some("pods")).unwrap()[0].handle),
            Self::Chain => batch.flush_chain(&ours(), "forward"),
            Self::Elements => batch.flush_set(&ours(), "ports"),
        }
    }
}

/// The other program.
struct Other {
    nft: Nft,
    key: TableKey,
    set: Set,
}

impl Other {
    fn start() -> Self {
        let mut other = Self {
            nft: Nft::open().unwrap(),
            key: TableKey::new(NftFamily::Ip, "other"),
            set: Set::new("many", [Type::InetService]),
        };
        let mut batch = Batch::new();
        batch.add_table(&Table { key: other.key.clone(), comment: None, dormant: false });
        batch.add_set(&other.key, &other.set);
        other.nft.commit(&batch).unwrap();
        other
    }

    fn add(&self, batch: &mut Batch, numbers: std::ops::Range<u16>) {
        let elements: Vec<_> = numbers.map(port).collect();
        batch.add_elements(&self.key, &self.set, &elements);
    }

    fn commit(&mut self, batch: &Batch) {
        self.nft.commit(batch).unwrap();
    }

    fn forget(&mut self) {
        let mut batch = Batch::new();
        batch.flush_set(&self.key, "many");
        self.commit(&batch);
    }
}

#[track_caller]
fn is_mended(kernel: &mut Kernel, what: impl std::fmt::Display) {
    let (state, scope) = desired();
    let look = || match kernel.plan(&state, &scope, None) {
        Ok(plan) if plan.is_empty() => Ok(()),
        Ok(plan) => Err(plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        Err(error) => Err(error.to_string()),
    };
    eventually(format_args!("{what} is mended"), BOUND, look).unwrap_or_else(|error| panic!("{error}"));
}

fn beside_a_holder(work: impl FnOnce(&Holder, &mut Kernel, &mut Other)) -> Outcome {
    let holder = Holder::default();
    let mut kernel = Kernel::open()?;
    thread::scope(|scope| {
        /// Runs however `work` ends.
        struct Stop<'a>(&'a Holder);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop.store(true, Relaxed);
            }
        }
        scope.spawn(|| holder.hold());
        let _stop = Stop(&holder);
        is_mended(&mut kernel, "the table that is not there yet");
        work(&holder, &mut kernel, &mut Other::start());
    });
    Ok(())
}

/// All elements in one transaction that does damage first, half way, or last.
pub fn damage_amid_ten_thousand_elements_in_a_transaction_is_mended() -> Outcome {
    beside_a_holder(|holder, kernel, other| {
        for (damage, point) in Damage::ALL.into_iter().zip([0, ELEMENTS / 2, ELEMENTS]) {
            holder.cost(&format!("a transaction of {ELEMENTS} elements, {damage:?} damaged behind {point}"), || {
                let mut batch = Batch::new();
                other.add(&mut batch, 0..point);
                damage.stage(&mut other.nft, &mut batch);
                other.add(&mut batch, point..ELEMENTS);
                other.commit(&batch);
                is_mended(kernel, format_args!("{damage:?}, damaged behind {point} elements"));
            });
            holder.cost(&format!("the deletion of {ELEMENTS} elements"), || other.forget());
        }
    })
}

/// Damage while the elements come, in hundreds of transactions.
fn damage_amid(transactions: u16) -> Outcome {
    let each = ELEMENTS / transactions;
    beside_a_holder(|holder, kernel, other| {
        let mut ours = Nft::open().unwrap();
        holder.cost(&format!("{ELEMENTS} elements in {transactions} transactions, damaged three times"), || {
            for (part, damage) in (0..4).zip(Damage::ALL.map(Some).into_iter().chain([None])) {
                let numbers =
                    (part * transactions / 4..(part + 1) * transactions / 4).map(|n| n * each..(n + 1) * each);
                let commit = |numbers| {
                    let mut batch = Batch::new();
                    other.add(&mut batch, numbers);
                    other.commit(&batch);
                };
                thread::scope(|scope| {
                    let coming = scope.spawn(|| numbers.for_each(commit));
                    if let Some(damage) = damage {
                        let mut batch = Batch::new();
                        damage.stage(&mut ours, &mut batch);
                        ours.commit(&batch).unwrap();
                        is_mended(kernel, format_args!("{damage:?}, damaged in quarter {part}"));
                    }
                    coming.join().unwrap();
                });
            }
        });
    })
}

pub fn damage_amid_a_hundred_transactions_is_mended() -> Outcome {
    damage_amid(100)
}

/// Ten times as many, each of ten elements.
pub fn damage_amid_a_thousand_transactions_is_mended() -> Outcome {
    damage_amid(1000)
}
