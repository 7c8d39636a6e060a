//! Logs: to stderr, fields and not formatted text.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins to log. klog's verbosity 0 is what others can see, 1 each step and why, 4 everything.
pub fn start(verbosity: i32) {
    let level = match verbosity {
        ..=0 => LevelFilter::INFO,
        1..=3 => LevelFilter::DEBUG,
        4.. => LevelFilter::TRACE,
    };
    let ours =
        Targets::new().with_default(LevelFilter::WARN).with_target("flanneld", level).with_target("kernel", level);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    // a program that runs several daemons has begun before
    let _ = tracing_subscriber::registry().with(format).with(ours).try_init();
}
