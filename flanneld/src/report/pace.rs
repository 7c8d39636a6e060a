//! When a file is written. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The status of many peers takes longer to write than one lease to follow.
const PAUSE: Duration = Duration::from_millis(500);

/// The same above [`MANY`] peers.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// With more peers than this a status is some 300 KB.
const MANY: usize = 1000;

/// When the status may be written again, if it was `written` with so many peers. Until the daemon has `started` somebody
/// waits for every step of it.
pub(super) fn next_status(written: Option<Instant>, peers: usize, started: bool) -> Option<Instant> {
    let pause = if peers > MANY { LONG_PAUSE } else { PAUSE };
    written.filter(|_| started).map(|written| written + pause)
}

/// More repairs of one file than this in a [`WINDOW`] are a fight, which nobody wins.
const REPAIRS: usize = 5;

const WINDOW: Duration = Duration::from_secs(60);

/// The repairs of a file.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    at: VecDeque<Instant>,
}

impl Repairs {
    /// When the file may be repaired: now, or later when that was done too often.
    pub(super) fn allowed(&mut self, now: Instant) -> Instant {
        while self.at.front().is_some_and(|at| *at + WINDOW <= now) {
            self.at.pop_front();
        }
        if self.at.len() < REPAIRS { now } else { self.at.front().map_or(now, |at| *at + WINDOW) }
    }

    /// It is repaired.
    pub(super) fn done(&mut self, now: Instant) {
        self.at.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_many_peers_is_written_less_often() {
        let now = Instant::now();
        assert_eq!(next_status(None, 10_000, true), None, "never written: at once");
        assert_eq!(next_status(Some(now), 10_000, false), None, "before the start: at once");
        assert_eq!(next_status(Some(now), 1000, true), Some(now + PAUSE));
        assert_eq!(next_status(Some(now), 1001, true), Some(now + LONG_PAUSE));
    }

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
