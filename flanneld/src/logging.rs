//! Logs to stderr, with fields.
//!
//! On a terminal or in a file a line has its time and level. Under journald, which records the time itself, a line
//! has its level as a priority (sd-daemon(3)). With `--log-format json` every line is a JSON object, for collectors.

use std::fmt;
use std::os::linux::fs::MetadataExt;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people; under journald with priorities and without times.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// Starts logging. As in klog, verbosity 0 logs what others can see, 1 each step and its reason, 4 everything.
/// `journal` is JOURNAL_STREAM's value.
pub fn start(verbosity: i32, format: LogFormat, journal: Option<&str>) {
    let level = match verbosity {
        ..=0 => LevelFilter::INFO,
        1..=3 => LevelFilter::DEBUG,
        4.. => LevelFilter::TRACE,
    };
    let mut ours = Targets::new().with_default(LevelFilter::WARN);
    ours.extend(["flanneld", "store", "overlay", "kernel"].map(|name| (name.to_owned(), level)));
    // it logs each failure, and so does the store, with the time of the next attempt
    ours.extend([("kube_client".to_owned(), LevelFilter::OFF)]);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text if journal.is_some_and(is_stderr) => {
            layer.with_ansi(false).event_format(Journal::new()).boxed()
        }
        LogFormat::Text => layer.boxed(),
    };
    // A program that runs several daemons may have started logging before.
    let _ = tracing_subscriber::registry().with(layer).with(ours).try_init();
}

/// Whether `stream`, `DEVICE:INODE` in decimal, is standard error: if stderr is redirected, it is not the journal.
fn is_stderr(stream: &str) -> bool {
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|seen| stream == format!("{}:{}", seen.st_dev(), seen.st_ino()))
}

/// Formats lines for journald.
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journald_gets_priorities_and_no_times() {
        let lines = Lines::default();
        let into = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || into.clone());
        let subscriber = tracing_subscriber::registry().with(layer.event_format(Journal::new()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("stopped");
            tracing::warn!(dev = "eth0", "no carrier");
            tracing::info!("started");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<3>stopped\n<4>no carrier dev=\"eth0\"\n<6>started\n");
    }

    #[test]
    fn only_the_stream_itself_is_the_journal() {
        let seen = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(is_stderr(&format!("{}:{}", seen.st_dev(), seen.st_ino())));
        assert!(!is_stderr("1:2") && !is_stderr(""));
    }
}
