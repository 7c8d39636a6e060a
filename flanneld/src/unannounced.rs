//! Sysctls that the kernel does not announce are read once a second, which costs some microseconds.
//!
//! RTM_NEWNETCONF announces only what [`is_announced`] knows: forwarding, rp_filter, proxy_arp and their like. For
//! the rest (accept_ra, arp_ignore, gc_thresh*) there is no notification: writing the file calls no notifier, and inotify
//! reports what is written through the same mount of /proc only.

use std::collections::BTreeMap;
use std::time::Duration;

use kernel::news::is_announced;
use kernel::state::State;
use kernel::sysctl;
use tokio::time::Instant;

use crate::kernel_thread::{KernelThread, ThreadError};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// The values of settings as they were read last, by path below `/proc/sys`.
#[derive(Debug)]
pub struct Unannounced {
    seen: BTreeMap<String, Option<String>>,
    next: Instant,
}

impl Default for Unannounced {
    fn default() -> Self {
        Self { seen: BTreeMap::new(), next: Instant::now() + PAUSE }
    }
}

impl Unannounced {
    /// When it is time for a look.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Reads the settings of `desired` that the kernel does not announce, and `facts`. True if one of the first is not as it is
    /// desired, or one of the others is another, and was not so at the last look.
    pub async fn changed(
        &mut self,
        kernel: &KernelThread,
        desired: &State,
        facts: impl IntoIterator<Item = String>,
    ) -> Result<bool, ThreadError> {
        let silent = desired.sysctls.keys().filter(|path| !is_announced(path)).cloned();
        let paths: Vec<String> = silent.chain(facts).collect();
        let read = move |_: &mut kernel::Kernel| {
            // what cannot be read is not there
            paths.into_iter().map(|path| (path.clone(), sysctl::read(&path).ok().flatten())).collect()
        };
        let now: BTreeMap<String, Option<String>> = kernel.call(read).await?;
        let before = std::mem::replace(&mut self.seen, now);
        self.next = Instant::now() + PAUSE;
        Ok(differ(&before, &self.seen, desired))
    }
}

fn differ(before: &BTreeMap<String, Option<String>>, now: &BTreeMap<String, Option<String>>, desired: &State) -> bool {
    now.iter().any(|(path, value)| {
        let known = before.get(path);
        let wanted = desired.sysctls.get(path);
        known.is_some_and(|known| known != value) && (wanted.is_none() || wanted != value.as_ref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_away_from_what_is_desired_is_one() {
        let look = |value: &str| BTreeMap::from([("net/x".to_owned(), Some(value.to_owned()))]);
        let mut desired = State::default();
        assert!(differ(&look("0"), &look("8"), &desired), "a fact");
        assert!(!differ(&BTreeMap::new(), &look("8"), &desired), "the first look");
        desired.sysctls.insert("net/x".into(), "0".into());
        assert!(differ(&look("0"), &look("2"), &desired));
        assert!(!differ(&look("2"), &look("0"), &desired), "it was repaired");
        assert!(!differ(&look("2"), &look("2"), &desired), "it cannot be repaired");
    }
}
