//! When a lease of the embedded store ends. Pure.
//!
//! Its file says it twice: as a second of Unix time, for people and for after a reboot, and as a second since the boot that
//! it was written in. Only the second decides as long as that boot lasts: when the time of day is set, by a year too,
//! no lease ends sooner or later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::Moment;

/// Of a lease that was written before this boot, or by hand, the time of day alone can tell whether it is over. It may be
/// wrong, so whoever starts with this host has this long to renew it.
pub(super) const GRACE: Duration = Duration::from_secs(300);

/// All clocks at one moment.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// The kernel's identity of this boot; empty when it gives none.
    pub(super) boot_id: Arc<str>,
    pub(super) moment: Moment,
    pub(super) wall: SystemTime,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ttl {
    /// Seconds since 1970.
    unix: u64,
    /// The boot's identity, and seconds since then.
    boot: Option<(String, u64)>,
}

impl Ttl {
    /// What ends `ttl` from now. It is never written too short.
    pub(super) fn lasting(ttl: Duration, now: &Now) -> Self {
        let unix = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(ttl);
        let end = now.moment.after(ttl).of_boot();
        let boot = (!now.boot_id.is_empty()).then(|| (now.boot_id.to_string(), up(end)));
        Self { unix: unix.as_secs(), boot }
    }

    /// Two lines; the second is not there when it was written by hand. `None` for what is no time.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.lines();
        let unix = lines.next()?.trim().parse().ok()?;
        let boot = lines.next().and_then(|line| {
            let (id, second) = line.strip_prefix("boot ")?.split_once(' ')?;
            Some((id.to_owned(), second.trim().parse().ok()?))
        });
        Some(Self { unix, boot })
    }

    pub(super) fn to_text(&self) -> String {
        match &self.boot {
            Some((id, second)) => format!("{}\nboot {id} {second}\n", self.unix),
            None => format!("{}\n", self.unix),
        }
    }

    /// What is left by the time of day.
    fn left_of_day(&self, now: &Now) -> Duration {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.unix));
        end.map_or(Duration::MAX, |end| end.duration_since(now.wall).unwrap_or_default())
    }

    /// The end, if the file was written in this boot.
    fn of_this_boot(&self, now: &Now) -> Option<Moment> {
        let (id, second) = self.boot.as_ref()?;
        (**id == *now.boot_id).then(|| Moment::since_boot(Duration::from_secs(*second)))
    }
}

fn up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What this process has seen of the files that do not name this boot: the time of day counts once for each content,
/// when it is seen first.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ends: BTreeMap<String, (Ttl, Moment)>,
}

impl Seen {
    /// When the leases end whose files say `ttls`, by their keys.
    pub(super) fn ends(&mut self, ttls: BTreeMap<String, Ttl>, now: &Now) -> BTreeMap<String, Moment> {
        self.ends.retain(|key, _| ttls.contains_key(key));
        ttls.into_iter().map(|(key, ttl)| (key.clone(), self.end(key, ttl, now))).collect()
    }

    fn end(&mut self, key: String, ttl: Ttl, now: &Now) -> Moment {
        let end = match (ttl.of_this_boot(now), self.ends.get(&key)) {
            (Some(end), _) => end,
            (None, Some((seen, end))) if *seen == ttl => return *end,
            // it was changed just now: by whoever looked at the same clock
            (None, Some(_)) => now.moment.after(ttl.left_of_day(now)),
            (None, None) => now.moment.after(ttl.left_of_day(now).max(GRACE)),
        };
        self.ends.insert(key, (ttl, end));
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    const KEY: &str = "10.5.1.0-24";

    fn now() -> Now {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Now { boot_id: "b-1".into(), moment: Moment::since_boot(HOUR), wall }
    }

    /// `time` later, with the time of day set by `set` seconds besides.
    fn later(now: &Now, time: Duration, set: i64) -> Now {
        let by = Duration::from_secs(set.unsigned_abs());
        let wall = if set < 0 { now.wall + time - by } else { now.wall + time + by };
        Now { moment: now.moment.after(time), wall, ..now.clone() }
    }

    fn end(seen: &mut Seen, ttl: &Ttl, now: &Now) -> Moment {
        seen.ends([(KEY.to_owned(), ttl.clone())].into(), now)[KEY]
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let ttl = Ttl::lasting(DAY, &now());
        assert_eq!(ttl.to_text(), "1800086400\nboot b-1 90000\n");
        assert_eq!(Ttl::parse(ttl.to_text().as_bytes()), Some(ttl));
        let no_id = Ttl::lasting(DAY, &Now { boot_id: "".into(), ..now() });
        assert_eq!((no_id.to_text().as_str(), Ttl::parse(b"1800086400")), ("1800086400\n", Some(no_id)));
        let plain = Some(Ttl { unix: 7, boot: None });
        for text in ["7", " 7 \n", "7\nnotes", "7\nboot b-1", "7\nboot b-1 x\n"] {
            assert_eq!(Ttl::parse(text.as_bytes()), plain, "{text:?}");
        }
        for text in [&b"soon"[..], b"", b"-1", b"\xff", b"99999999999999999999"] {
            assert_eq!(Ttl::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_time_of_day_may_be_set_as_one_likes() {
        let (start, ttl) = (now(), Ttl::lasting(DAY, &now()));
        let wanted = start.moment.after(DAY);
        let year = YEAR.as_secs() as i64;
        for set in [-3600, -8 * 3600, -year, 0, 3600, year, 50 * year] {
            let after = later(&start, Duration::from_secs(5), set);
            assert_eq!(end(&mut Seen::default(), &ttl, &after), wanted, "seen first after {set} s");
            let mut seen = Seen::default();
            assert_eq!(end(&mut seen, &ttl, &start), wanted);
            assert_eq!(end(&mut seen, &ttl, &after), wanted, "seen before {set} s");
        }
    }

    #[test]
    fn of_another_boot_the_time_of_day_counts_once_and_a_grace_is_given() {
        let before = Now { boot_id: "b-0".into(), ..now() };
        let year = YEAR.as_secs() as i64;
        for ttl in [Ttl::lasting(DAY, &before), Ttl { unix: 1_800_086_400, boot: None }] {
            let mut seen = Seen::default();
            let wanted = now().moment.after(DAY);
            assert_eq!(end(&mut seen, &ttl, &now()), wanted);
            for set in [-year, year] {
                assert_eq!(end(&mut seen, &ttl, &later(&now(), HOUR, set)), wanted, "{set}");
            }
            // over already, or the clock is wrong
            let wrong = later(&now(), Duration::ZERO, year);
            assert_eq!(end(&mut Seen::default(), &ttl, &wrong), wrong.moment.after(GRACE));
        }
    }

    #[test]
    fn a_time_that_is_changed_by_hand_counts_at_once() {
        let mut seen = Seen::default();
        let (start, ttl) = (now(), Ttl::lasting(DAY, &now()));
        end(&mut seen, &ttl, &start);
        let by_hand = Ttl { unix: 1, boot: None };
        let after = later(&start, HOUR, 0);
        assert_eq!(end(&mut seen, &by_hand, &after), after.moment);
        // renewed
        assert_eq!(end(&mut seen, &Ttl::lasting(DAY, &after), &after), after.moment.after(DAY));
        assert!(
            seen.ends(BTreeMap::new(), &after).is_empty() && seen.ends.is_empty(),
            "a lease that is gone is forgotten"
        );
    }

    #[test]
    fn a_time_beyond_all_clocks_is_one() {
        let far = Ttl { unix: u64::MAX, boot: None };
        assert_eq!(end(&mut Seen::default(), &far, &now()).of_boot(), Duration::MAX);
        let far = Ttl { unix: 0, boot: Some(("b-1".into(), u64::MAX)) };
        assert_eq!(end(&mut Seen::default(), &far, &now()).of_boot(), Duration::from_secs(u64::MAX));
    }
}
