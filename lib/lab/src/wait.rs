//! Bounded waiting on a condition.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::Error;

/// The time between two looks. It is short enough to time a repair of 100 ms.
const PAUSE: Duration = Duration::from_millis(2);

/// Calls `look` until it returns a value, for at most `limit`. Its error is the state that it saw; the last state is
/// part of the [`Error::Timeout`].
pub fn eventually<T, S: Display>(
    what: impl Display,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        let last = match look() {
            Ok(value) => return Ok(value),
            Err(state) => state,
        };
        if started.elapsed() >= limit {
            return Err(Error::Timeout { what: what.to_string(), waited: limit, last: last.to_string() });
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_last_state() {
        let mut looks = 0;
        let error = eventually("the moon", Duration::from_millis(5), || {
            looks += 1;
            Err::<(), _>(format!("look {looks}"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("the moon: not within 5 ms; last seen: look {looks}"));
        assert!(looks > 1);
    }

    #[test]
    fn ends_when_the_condition_is_true() {
        let mut looks = 0;
        let value = eventually("three", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        });
        assert_eq!(value.unwrap(), 3);
    }
}
