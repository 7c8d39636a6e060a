//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles from 100 ms up to 30 s.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt.
    #[expect(clippy::should_implement_trait, reason = "this never ends, so it is no iterator")]
    pub fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        wait
    }

    /// Starts over if what an attempt began has lasted at least as long as the wait before it. What ends sooner is begun again
    /// less and less often.
    pub fn lasted(&mut self, time: Duration) {
        let mut before = Self { attempts: self.attempts.saturating_sub(1) };
        if self.attempts == 0 || time >= before.next() {
            self.reset();
        }
    }

    /// Starts over, after an attempt that succeeded.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_a_limit() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [30_000; 3]);
        backoff.reset();
        assert_eq!(backoff.next(), FIRST);
    }

    #[test]
    fn what_ends_soon_is_no_success() {
        let mut backoff = Backoff::default();
        let mut after = |time: u64| {
            backoff.lasted(Duration::from_millis(time));
            backoff.next().as_millis()
        };
        assert_eq!([after(0), after(0), after(99), after(399)], [100, 200, 400, 800]);
        assert_eq!([after(800), after(100), after(99)], [100, 100, 200]);
    }
}
