//! How many of a drill's points are tried.

use std::hash::{DefaultHasher, Hash, Hasher};

/// All points, or those that CI has the time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every point.
    Whole,
    /// Every `.0`-th point. The first one depends on the name of the run, so that different runs meet different calls.
    Slice(usize),
}

impl Part {
    /// The points that are tried in the run that is called `run`: always the same ones.
    pub fn of<T>(self, run: &str, points: Vec<T>) -> Vec<T> {
        let Self::Slice(step) = self else { return points };
        points.into_iter().skip(first(run, step)).step_by(step).collect()
    }
}

fn first(run: &str, step: usize) -> usize {
    // its keys are fixed
    let mut hasher = DefaultHasher::new();
    run.hash(&mut hasher);
    usize::try_from(hasher.finish() % step as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn slices_of_many_runs_meet_every_point() {
        let of = |run: usize| Part::Slice(13).of(&format!("run {run}"), (0..130).collect());
        let met: BTreeSet<i32> = (0..200).flat_map(of).collect();
        assert_eq!(met.len(), 130);
        assert_eq!((of(1).len(), of(1)), (10, of(1)));
        assert_eq!(Part::Whole.of("run", vec![1, 2]), [1, 2]);
    }
}
