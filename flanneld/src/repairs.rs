//! The rate of repairs of an object that another program keeps changing. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The most repairs of an object in a [`WINDOW`]. With more, another program keeps changing the object.
const REPAIRS: usize = 5;

const WINDOW: Duration = Duration::from_secs(60);

/// The recent repairs of an object.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    at: VecDeque<Instant>,
}

impl Repairs {
    /// When the object may be repaired: now, or later if there were too many repairs.
    pub fn allowed(&mut self, now: Instant) -> Instant {
        while self.at.front().is_some_and(|at| *at + WINDOW <= now) {
            self.at.pop_front();
        }
        if self.at.len() < REPAIRS { now } else { self.at.front().map_or(now, |at| *at + WINDOW) }
    }

    /// Whether there was no repair within the last minute.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Notes a repair.
    pub fn done(&mut self, now: Instant) {
        self.at.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_repair_in_a_minute_waits() {
        let (start, mut repairs) = (Instant::now(), Repairs::default());
        for n in 0..5 {
            let now = start + Duration::from_secs(n);
            assert_eq!(repairs.allowed(now), now);
            repairs.done(now);
        }
        let now = start + Duration::from_secs(5);
        assert_eq!(repairs.allowed(now), start + WINDOW);
        assert_eq!(repairs.allowed(start + WINDOW), start + WINDOW, "the first one is a minute old");
    }
}
