//! When leases of the embedded store end. Pure.
//!
//! A file gives the end twice: as Unix time, for people and for the time after a reboot, and as seconds since the
//! boot in which it was written. During that boot only the second value counts. So setting the time of day, even by a
//! year, ends no lease earlier or later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay::lease::Subnets;

use crate::clock::Moment;

/// For a lease that was written before this boot, or by hand, only the time of day tells whether it has ended. The
/// time of day may be wrong, so a host that starts together with this one gets this long to renew its lease.
pub(super) const GRACE: Duration = Duration::from_secs(300);

/// All clocks at one moment.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// The kernel's ID of this boot; empty when the kernel gives none.
    pub(super) boot_id: Arc<str>,
    pub(super) moment: Moment,
    pub(super) wall: SystemTime,
}

/// The content of a `ttl` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ttl {
    /// The end, in seconds since 1970.
    unix: u64,
    /// The end in seconds since boot, if the file was written in this boot.
    boot: Option<u64>,
}

impl Ttl {
    /// The text for a lease that ends `ttl` from now. It rounds up.
    pub(super) fn lasting(ttl: Duration, now: &Now) -> String {
        let unix = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(ttl).as_secs();
        if now.boot_id.is_empty() {
            return format!("{unix}\n");
        }
        format!("{unix}\nboot {} {}\n", now.boot_id, up(now.moment.after(ttl).of_boot()))
    }

    /// Parses two lines; a file written by hand may have only the first. Returns `None` when the text is not a time.
    pub(super) fn parse(text: &[u8], boot_id: &str) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.lines();
        let unix = lines.next()?.trim().parse().ok()?;
        let boot = lines.next().and_then(|line| {
            let (id, second) = line.strip_prefix("boot ")?.split_once(' ')?;
            second.trim().parse().ok().filter(|_| id == boot_id && !id.is_empty())
        });
        Some(Self { unix, boot })
    }

    /// The time left according to the time of day.
    fn left_of_day(&self, now: &Now) -> Duration {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.unix));
        end.map_or(Duration::MAX, |end| end.duration_since(now.wall).unwrap_or_default())
    }
}

fn up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// When the leases end, as far as this process knows. For files that do not name this boot the time of day is
/// consulted once per content, when this process first sees it.
#[derive(Debug, Default)]
pub(super) struct Ends {
    ends: BTreeMap<Subnets, (Ttl, Moment)>,
    order: BTreeSet<(Moment, Subnets)>,
}

impl Ends {
    /// Records the file of a lease; `None` when the lease has no file and does not end.
    pub(super) fn set(&mut self, key: Subnets, ttl: Option<Ttl>, now: &Now) {
        let before = self.ends.remove(&key);
        if let Some((_, end)) = before {
            self.order.remove(&(end, key));
        }
        let Some(ttl) = ttl else { return };
        let end = match (ttl.boot, before) {
            (Some(second), _) => Moment::since_boot(Duration::from_secs(second)),
            (None, Some((seen, end))) if seen == ttl => end,
            // The file has just changed: its writer used the same clock.
            (None, Some(_)) => now.moment.after(ttl.left_of_day(now)),
            (None, None) => now.moment.after(ttl.left_of_day(now).max(GRACE)),
        };
        self.ends.insert(key, (ttl, end));
        self.order.insert((end, key));
    }

    /// Forgets all leases for which `there` is false.
    pub(super) fn retain(&mut self, there: impl Fn(&Subnets) -> bool) {
        self.ends.retain(|key, _| there(key));
        self.order.retain(|(_, key)| there(key));
    }

    /// When the next lease ends.
    pub(super) fn next(&self) -> Option<Moment> {
        self.order.first().map(|(end, _)| *end)
    }

    /// The leases that have ended, each with the file that says so.
    pub(super) fn over(&self, now: Moment) -> Vec<(Subnets, Ttl)> {
        let over = self.order.iter().take_while(|(end, _)| *end <= now);
        over.filter_map(|(_, key)| Some((*key, self.ends.get(key)?.0))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn key() -> Subnets {
        "10.5.1.0-24".parse().unwrap()
    }

    fn now() -> Now {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Now { boot_id: "b-1".into(), moment: Moment::since_boot(HOUR), wall }
    }

    /// `time` later, after a person has also set the time of day forward by `set` seconds.
    fn later(now: &Now, time: Duration, set: i64) -> Now {
        let by = Duration::from_secs(set.unsigned_abs());
        let wall = if set < 0 { now.wall + time - by } else { now.wall + time + by };
        Now { moment: now.moment.after(time), wall, ..now.clone() }
    }

    fn parse(text: &str) -> Option<Ttl> {
        Ttl::parse(text.as_bytes(), "b-1")
    }

    fn day() -> Ttl {
        parse(&Ttl::lasting(DAY, &now())).unwrap()
    }

    fn end(ends: &mut Ends, ttl: Ttl, now: &Now) -> Moment {
        ends.set(key(), Some(ttl), now);
        ends.next().unwrap()
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        assert_eq!(Ttl::lasting(DAY, &now()), "1800086400\nboot b-1 90000\n");
        assert_eq!(day(), Ttl { unix: 1_800_086_400, boot: Some(90_000) });
        let no_id = Now { boot_id: "".into(), ..now() };
        assert_eq!(Ttl::lasting(DAY, &no_id), "1800086400\n");
        for text in ["7", " 7 \n", "7\nnotes", "7\nboot b-1", "7\nboot b-1 x\n", "7\nboot b-0 5\n", "7\nboot  5\n"] {
            assert_eq!(parse(text), Some(Ttl { unix: 7, boot: None }), "{text:?}");
        }
        assert_eq!(Ttl::parse(b"7\nboot  5\n", ""), Some(Ttl { unix: 7, boot: None }));
        for text in ["soon", "", "-1", "99999999999999999999"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(Ttl::parse(b"\xff", "b-1"), None);
    }

    #[test]
    fn the_time_of_day_may_be_set_as_one_likes() {
        let start = now();
        let wanted = start.moment.after(DAY);
        let year = YEAR.as_secs() as i64;
        for set in [-3600, -8 * 3600, -year, 0, 3600, year, 50 * year] {
            let after = later(&start, Duration::from_secs(5), set);
            assert_eq!(end(&mut Ends::default(), day(), &after), wanted, "seen first after {set} s");
            let mut ends = Ends::default();
            assert_eq!(end(&mut ends, day(), &start), wanted);
            assert_eq!(end(&mut ends, day(), &after), wanted, "seen before {set} s");
        }
    }

    #[test]
    fn of_another_boot_the_time_of_day_counts_once_and_a_grace_is_given() {
        let before = Now { boot_id: "b-0".into(), ..now() };
        let year = YEAR.as_secs() as i64;
        for text in [Ttl::lasting(DAY, &before), "1800086400".into()] {
            let ttl = parse(&text).unwrap();
            let mut ends = Ends::default();
            let wanted = now().moment.after(DAY);
            assert_eq!(end(&mut ends, ttl, &now()), wanted);
            for set in [-year, year] {
                assert_eq!(end(&mut ends, ttl, &later(&now(), HOUR, set)), wanted, "{set}");
            }
            // The end has passed, or the clock is wrong.
            let wrong = later(&now(), Duration::ZERO, year);
            assert_eq!(end(&mut Ends::default(), ttl, &wrong), wrong.moment.after(GRACE));
        }
    }

    #[test]
    fn a_time_that_is_changed_by_hand_counts_at_once() {
        let mut ends = Ends::default();
        let start = now();
        end(&mut ends, day(), &start);
        let by_hand = Ttl { unix: 1, boot: None };
        let after = later(&start, HOUR, 0);
        assert_eq!(end(&mut ends, by_hand, &after), after.moment);
        assert_eq!(ends.over(after.moment), [(key(), by_hand)]);
        // After a renewal.
        let renewed = parse(&Ttl::lasting(DAY, &after)).unwrap();
        assert_eq!(end(&mut ends, renewed, &after), after.moment.after(DAY));
        assert!(ends.over(after.moment).is_empty());
        ends.retain(|_| false);
        assert!(ends.next().is_none() && ends.ends.is_empty(), "a lease that is gone is forgotten");
        end(&mut ends, by_hand, &after);
        ends.set(key(), None, &after);
        assert_eq!(ends.next(), None, "it has become a reservation");
    }

    #[test]
    fn a_time_beyond_all_clocks_is_one() {
        let far = Ttl { unix: u64::MAX, boot: None };
        assert_eq!(end(&mut Ends::default(), far, &now()).of_boot(), Duration::MAX);
        let far = Ttl { unix: 0, boot: Some(u64::MAX) };
        assert_eq!(end(&mut Ends::default(), far, &now()).of_boot(), Duration::from_secs(u64::MAX));
    }
}
