//! The clock by which it is decided what is due.
//!
//! The time of day is set by people and by NTP, by hours too, and decides nothing. The clock since boot cannot be set. It
//! is the one that counts while the host sleeps, unlike that of [`std::time::Instant`]: what others hold for this host
//! goes on to expire then.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment on the clock since boot, which is the same for all processes of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(Duration);

impl Moment {
    /// CLOCK_BOOTTIME.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        Self(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    /// So long after the boot.
    pub const fn since_boot(since: Duration) -> Self {
        Self(since)
    }

    /// The time since the boot.
    pub const fn of_boot(self) -> Duration {
        self.0
    }

    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// So much earlier; the boot at the earliest.
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// What is left until `self`; nothing when it is over.
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
