//! The clock that decides what is due.
//!
//! People and NTP set the time of day, sometimes by hours, so it decides nothing. Nobody can set the clock since
//! boot. Unlike the clock of [`std::time::Instant`] it also counts while the host sleeps, as the leases of this host
//! do in a store.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment on the clock since boot (CLOCK_BOOTTIME), which all processes of a host share. The default is the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The current moment.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        Self(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    /// The moment `since` after the boot.
    pub const fn since_boot(since: Duration) -> Self {
        Self(since)
    }

    /// The time since the boot.
    pub const fn of_boot(self) -> Duration {
        self.0
    }

    /// The moment `time` later; the latest possible moment on overflow.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// The moment `time` earlier, at the earliest the boot.
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// The time from `now` until `self`; zero when `self` is past.
    pub fn left(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_go_back_and_does_not_overflow() {
        let (one, two) = (Moment::now(), Moment::now());
        assert!(one <= two && two.of_boot() > Duration::ZERO);
        let minute = Duration::from_secs(60);
        assert_eq!(one.after(minute).left(one), minute);
        assert_eq!(one.left(one.after(minute)), Duration::ZERO);
        assert_eq!(Moment::default().before(minute), Moment::default());
        assert_eq!(one.after(Duration::MAX).of_boot(), Duration::MAX);
    }
}
