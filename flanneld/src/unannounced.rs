//! Sysctls that the kernel does not announce are read when their file was written, and once a second in any case, which costs some
//! microseconds.
//!
//! RTM_NEWNETCONF announces only what [`is_announced`] knows: forwarding, rp_filter, proxy_arp and their like. For
//! the rest (accept_ra, arp_ignore, gc_thresh*) there is no notification: writing the file calls no notifier, and inotify
//! reports what is written through the same mount of /proc only. A program in a container has another one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use kernel::news::is_announced;
use kernel::state::State;
use kernel::sysctl;
use tokio::time::Instant;

use crate::kernel_thread::{KernelThread, ThreadError};

/// Between two looks without a reason.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two looks in any case: another program may write all the time.
const QUIET: Duration = Duration::from_millis(20);

/// The values of settings as they were read last, by path below `/proc/sys`.
#[derive(Debug)]
pub struct Unannounced {
    seen: BTreeMap<String, Option<String>>,
    last: Instant,
    next: Instant,
    /// `None` before the first look, and where no more files can be watched.
    files: Option<Files>,
}

impl Default for Unannounced {
    fn default() -> Self {
        let now = Instant::now();
        Self { seen: BTreeMap::new(), last: now, next: now + PAUSE, files: None }
    }
}

impl Unannounced {
    /// When it is time for a look.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Waits until another program has written one of the settings: then a look is due sooner. Cancel-safe.
    pub async fn written(&mut self) {
        written(&mut self.files).await;
        self.next = self.next.min(self.last + QUIET);
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
        // before they are read, so that no change falls between the two
        self.watch(paths.iter().map(|key| sysctl::path(key)).collect());
        let read = move |_: &mut kernel::Kernel| {
            // what cannot be read is not there
            paths.into_iter().map(|path| (path.clone(), sysctl::read(&path).ok().flatten())).collect()
        };
        let now: BTreeMap<String, Option<String>> = kernel.call(read).await?;
        let before = std::mem::replace(&mut self.seen, now);
        self.last = Instant::now();
        self.next = self.last + PAUSE;
        Ok(differ(&before, &self.seen, desired))
    }

    fn watch(&mut self, paths: Vec<PathBuf>) {
        if self.files.is_none() {
            self.files = Files::new().inspect_err(|error| tracing::debug!(%error, "settings are only polled")).ok();
        }
        self.files.iter_mut().for_each(|files| files.arm(&paths));
    }
}

/// Files whose writers are noticed.
struct Files {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    armed: BTreeMap<PathBuf, WatchDescriptor>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.armed.keys()).finish()
    }
}

impl Files {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        Ok(Self { stream: inotify.into_event_stream(vec![0; 4096])?, watches, armed: BTreeMap::new() })
    }

    /// Watches exactly these files. A path may lead to a new file each time: that of a link that was made again.
    fn arm(&mut self, paths: &[PathBuf]) {
        let mut watches = self.watches.clone();
        // one that is not there has nothing to notice
        let mut add = |path: &Path| watches.add(path, WatchMask::MODIFY).ok().map(|watch| (path.to_owned(), watch));
        let now: BTreeMap<PathBuf, WatchDescriptor> = paths.iter().filter_map(|path| add(path)).collect();
        let before = std::mem::replace(&mut self.armed, now);
        for (path, watch) in before {
            if self.armed.get(&path) != Some(&watch) {
                // it may be gone with its file
                let _ = self.watches.remove(watch);
            }
        }
    }
}

/// Waits until one of the files is written. Cancel-safe.
async fn written(files: &mut Option<Files>) {
    let event = match files {
        Some(files) => files.stream.next().await,
        None => std::future::pending().await,
    };
    if !matches!(event, Some(Ok(_))) {
        *files = None;
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

    #[tokio::test]
    async fn what_is_written_is_looked_at_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        let write = |path: &Path| std::fs::write(path, "8").unwrap();
        [&one, &other].into_iter().for_each(|path| write(path));
        let mut settings = Unannounced { next: Instant::now() + Duration::from_secs(3600), ..Unannounced::default() };
        settings.watch(vec![one.clone(), dir.path().join("none")]);
        write(&one);
        tokio::time::timeout(Duration::from_secs(30), settings.written()).await.unwrap();
        assert!(settings.due() <= Instant::now() + QUIET);

        // a file that was made again, and one that is not watched any more
        std::fs::remove_file(&one).unwrap();
        write(&one);
        settings.watch(vec![one.clone(), other.clone()]);
        settings.watch(vec![one.clone()]);
        while futures_util::FutureExt::now_or_never(written(&mut settings.files)).is_some() {}
        write(&other);
        assert!(futures_util::FutureExt::now_or_never(written(&mut settings.files)).is_none());
        write(&one);
        tokio::time::timeout(Duration::from_secs(30), settings.written()).await.unwrap();
    }
}
