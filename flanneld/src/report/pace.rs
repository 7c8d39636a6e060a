//! When to write a file. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two status files.
const PAUSE: Duration = Duration::from_millis(500);

/// The same for each peer: a status of many peers takes longer to write than a lease to apply. 1,000 peers make 5 s.
const PAUSE_PER_PEER: Duration = Duration::from_millis(5);

/// No status is older than this.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// How often the udp backend's counters are read: nobody announces that they have changed.
pub(super) const COUNTED: Duration = Duration::from_millis(500);

/// The earliest time of the next status, if the last one was `written` and there are so many peers. Until the daemon
/// has `started`, every step of it is reported at once.
pub(super) fn next_status(written: Option<Instant>, peers: usize, started: bool) -> Option<Instant> {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    let pause = PAUSE_PER_PEER.saturating_mul(peers).clamp(PAUSE, LONG_PAUSE);
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
        assert_eq!(next_status(Some(now), 100, true), Some(now + PAUSE));
        assert_eq!(next_status(Some(now), 1000, true), Some(now + LONG_PAUSE));
    }
}
