//! Does what a row says, and finds what comes of it.

use std::fmt;
use std::time::{Duration, Instant};

use lab::cluster::PATIENCE;
use lab::wait::eventually;

use super::scene::{Scene, Section};
use super::{Object, Row, Table, Verdict};
use crate::{Failure, Outcome};

/// How the damage ends of a row that stops the daemon meanwhile.
const CONTINUES: &str = "kill -CONT $PID";

/// Many times longer than a repair takes; a processor that is imitated takes longer for all.
fn limit() -> Duration {
    Duration::from_secs(if tests::vm::is_inside() { 15 } else { 2 })
}

/// What came of a row.
#[derive(Debug, Clone)]
pub enum Found {
    /// All is as before, after this time.
    Healed(Duration),
    /// The status says something new; with what `/readyz` answers and why not all pods reach all others, if so.
    Said(String, u16, Option<String>),
    /// Nothing is said, and pods reach each other.
    Harmless(Vec<String>),
    /// Nothing is said, and pods do not reach each other.
    Broken(Vec<String>, String),
    /// The damage cannot be done.
    Impossible(String),
}

impl Found {
    /// It is at least as good as `wanted`.
    fn is(&self, wanted: Verdict) -> bool {
        match (self, wanted) {
            (Self::Healed(_), _) => true,
            (Self::Harmless(_) | Self::Said(_, _, None), Verdict::Harmless(_)) => true,
            (Self::Said(text, ..), Verdict::Said(words)) => text.contains(words),
            // without the local table it cannot even be asked
            (Self::Said(text, ready, _), Verdict::Unready(words)) => *ready != 200 && text.contains(words),
            _ => false,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healed(took) => write!(f, "healed after {:.0} ms", took.as_secs_f64() * 1e3),
            Self::Said(text, ready, None) => write!(f, "said, {ready}, pods reach each other: {text}"),
            Self::Said(text, ready, Some(why)) => write!(f, "said, {ready}, {why}: {text}"),
            Self::Harmless(seen) => write!(f, "unsaid, and pods reach each other: {seen:?}"),
            Self::Broken(seen, why) => write!(f, "BROKEN and unsaid: {why}: {seen:?}"),
            Self::Impossible(why) => write!(f, "cannot be done: {why}"),
        }
    }
}

/// Does what the row says and waits for what it expects, or for all that comes of it.
pub fn find(scene: &mut Scene, row: &Row) -> Result<Found, Failure> {
    scene.prepare(row)?;
    let said = scene.status();
    let mut watch = Watch::of(row);
    if let Err(error) = scene.sh(row.damage) {
        return Ok(Found::Impossible(error.to_string()));
    }
    if row.damage.ends_with(CONTINUES) {
        // until now the daemon could repair nothing
        watch.started = Instant::now();
    }
    loop {
        let found = look(scene, &mut watch, &said)?;
        let stays = matches!(found, Found::Healed(_)) || found.is(row.verdict);
        if stays || watch.started.elapsed() > limit() {
            return Ok(found);
        }
    }
}

/// Looks at one section after the other, each until it is as before.
struct Watch {
    sections: &'static [Section],
    started: Instant,
    /// When the last one was that was not as before at the first look.
    took: Option<Duration>,
    late: bool,
}

impl Watch {
    fn of(row: &Row) -> Self {
        Self { sections: row.object.sections(), started: Instant::now(), took: None, late: false }
    }

    /// What is not as before of the first section that is not.
    fn differences(&mut self, scene: &Scene) -> Result<Vec<String>, Failure> {
        while let Some((section, rest)) = self.sections.split_first() {
            let seen = scene.difference(*section)?;
            if !seen.is_empty() {
                self.late = true;
                return Ok(seen);
            }
            if self.late || self.took.is_none() {
                self.took = Some(self.started.elapsed());
            }
            (self.sections, self.late) = (rest, false);
        }
        Ok(Vec::new())
    }
}

fn look(scene: &mut Scene, watch: &mut Watch, said: &str) -> Result<Found, Failure> {
    let mut seen = watch.differences(scene)?;
    if seen.is_empty() {
        seen = scene.differences()?;
        if let (true, Ok(()), Some(took)) = (seen.is_empty(), scene.traffic(), watch.took) {
            return Ok(Found::Healed(took));
        }
    }
    let (status, traffic) = (scene.status(), scene.traffic().err());
    let (ready, why) = scene.ready();
    if status != said || ready != 200 {
        return Ok(Found::Said(format!("{status} {why}"), ready, traffic));
    }
    Ok(match traffic {
        Some(why) => Found::Broken(seen, why),
        None => Found::Harmless(seen),
    })
}

/// Undoes what nobody has undone; then all is as before, and nothing is reported.
pub fn restore(scene: &mut Scene, row: &Row, found: &Found) -> Outcome {
    let undone = scene.sh(if row.undo.is_empty() { ":" } else { row.undo });
    // what is repaired may leave nothing to undo
    if !matches!(found, Found::Healed(_)) {
        undone?;
    }
    if !matches!(found, Found::Healed(_)) && !found.is(row.verdict) {
        // the row says nothing of how to undo what it expects to be repaired
        scene.force(row.object)?;
    }
    // what another namespace has lost is not announced here: the daemon tries again by its back-off
    let patience = if tests::vm::is_inside() { PATIENCE } else { PATIENCE / 6 };
    eventually(format_args!("all is as before, after `{}`", row.undo), patience, || {
        let seen = scene.differences().map_err(|error| error.to_string())?;
        if seen.is_empty() { scene.traffic() } else { Err(format!("{seen:?}")) }
    })?;
    // what could not be repaired was tried several times, and the daemon tries five times a minute
    if matches!((found, row.object), (Found::Said(..), Object::Bridge | Object::Port)) {
        return scene.renew();
    }
    scene.wait_quiet()
}

/// What is wrong with every `step`th of a table's rows. `each` sees what comes of them.
pub fn all(table: &Table, step: usize, mut each: impl FnMut(&Row, &Found)) -> Result<Vec<String>, Failure> {
    let (mut scene, mut wrong) = (Scene::build(table)?, Vec::new());
    for row in table.rows.iter().copied().flatten().step_by(step) {
        let found = find(&mut scene, row)?;
        each(row, &found);
        if !found.is(row.verdict) {
            wrong.push(format!("{:?}: {}: {found}", row.object, row.name));
        }
        if let Err(error) = restore(&mut scene, row, &found) {
            wrong.push(format!("{:?}: {}: not restored, and the rest is left out: {error}", row.object, row.name));
            break;
        }
    }
    Ok(wrong)
}
