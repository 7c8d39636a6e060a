//! The daemon that keeps a host's kernel equal to the leases.

pub mod attachments;
pub mod claims;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod events;
pub mod flags;
pub mod health;
pub mod instance;
pub mod kernel_thread;
pub mod logging;
pub mod metrics;
pub mod overlay;
pub mod reclaim;
pub mod repairs;
pub mod report;
pub mod rules_watch;
pub mod supervise;
pub mod systemd;
pub mod udp;
mod unannounced;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use store::StoreOptions;
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::{Daemon, DaemonError};
use crate::flags::{Command, Options};
use crate::instance::Instance;

/// Exit code of an invalid flag: EX_USAGE of sysexits(3), so that a supervisor need not restart the daemon. Upstream
/// exits with 0, which a supervisor takes for success.
const USAGE: u8 = 64;

/// Exit code when the health server cannot bind its address: that of the panic in upstream.
const NO_HEALTH: u8 = 2;

/// Runs flanneld with these arguments (without the program's name) and this environment. Returns success after SIGINT
/// or SIGTERM, and failure after an error; the network stays unchanged in both cases.
pub fn run(args: &[String], env: &BTreeMap<String, String>) -> ExitCode {
    let say = |text: &str| {
        // If nobody reads stderr, there is nothing else to do.
        let _ = std::io::stderr().write_all(text.as_bytes());
    };
    let options = match flags::parse(args, env) {
        Ok(Command::Run(options)) => *options,
        Ok(Command::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            say(&format!("{}\n", error.to_string().trim_end()));
            return ExitCode::from(USAGE);
        }
    };
    logging::start(options.verbosity, options.log_format, env.get("JOURNAL_STREAM").map(String::as_str));
    introduce(&options);
    if let Some(folder) = options.proc_sys_net.clone() {
        kernel::sysctl::use_network_folder(folder);
    }
    options.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    match serve(options, env.get("NOTIFY_SOCKET").cloned()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            if matches!(error, DaemonError::Health { .. }) { ExitCode::from(NO_HEALTH) } else { ExitCode::FAILURE }
        }
    }
}

/// Logs the first line: the version and the options, without secrets.
fn introduce(options: &Options) {
    let ::overlay::underlay::Select { iface, iface_regex, can_reach, public_ip, public_ipv6 } = &options.select;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = store(&options.store),
        etcd_prefix = options.etcd_prefix,
        subnet_file = %options.subnet_file.display(),
        ?iface,
        ?iface_regex,
        ?can_reach,
        ?public_ip,
        ?public_ipv6,
        healthz = ?options.health,
        "flanneld starts"
    );
}

/// The store's kind and place, without its secrets.
fn store(options: &StoreOptions) -> String {
    match options {
        StoreOptions::Embedded(dir) => format!("embedded {}", dir.display()),
        StoreOptions::Etcd(options) => {
            format!("etcd {}", options.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        }
        StoreOptions::Kubernetes(options) => {
            format!("kubernetes {}", options.api_url.as_deref().unwrap_or("by its credentials"))
        }
    }
}

/// Runs the daemon on this thread, in its network namespace.
fn serve(options: Options, notify_socket: Option<String>) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    let outcome = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?;
        let _instance = Instance::claim(&options.subnet_file, instance::PATIENCE)?;
        let daemon = Daemon::new(options, notify_socket)?;
        tokio::select! {
            error = daemon.run() => return Err(error),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping; the network stays as it is");
        Ok(())
    });
    // A file operation that hangs must not keep the process alive.
    runtime.shutdown_background();
    outcome
}
