//! When a file is written. Pure: time is an argument.

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
}
