//! When to write a file. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two status files.
const PAUSE: Duration = Duration::from_millis(500);

/// The same for each peer: a status of many peers takes longer to write than a lease to apply. 1,000 peers make 5 s.
const PAUSE_PER_PEER: Duration = Duration::from_millis(5);

/// No status is older than this.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// The earliest time of the next status, if the last one was `written` and there are so many peers. Until the daemon
/// has `started`, every step of it is reported at once.
pub(super) fn next_status(written: Option<Instant>, peers: usize, started: bool) -> Option<Instant> {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    let pause = PAUSE_PER_PEER.saturating_mul(peers).clamp(PAUSE, LONG_PAUSE);
    written.filter(|_| started).map(|written| written + pause)
}

/// The most repairs of a file in a [`WINDOW`]. With more, another program keeps changing the file.
const REPAIRS: usize = 5;

const WINDOW: Duration = Duration::from_secs(60);

/// The recent repairs of a file.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    at: VecDeque<Instant>,
}

impl Repairs {
    /// When the file may be repaired: now, or later if there were too many repairs.
    pub(super) fn allowed(&mut self, now: Instant) -> Instant {
        while self.at.front().is_some_and(|at| *at + WINDOW <= now) {
            self.at.pop_front();
        }
        if self.at.len() < REPAIRS { now } else { self.at.front().map_or(now, |at| *at + WINDOW) }
    }

    /// Notes a repair.
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
        assert_eq!(next_status(Some(now), 100, true), Some(now + PAUSE));
        assert_eq!(next_status(Some(now), 1000, true), Some(now + LONG_PAUSE));
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
