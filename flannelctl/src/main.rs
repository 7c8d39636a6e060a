//! flannelctl: the operator's tool.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use attachment::record::DIRECTORY;
use clap::{Parser, Subcommand, ValueEnum};
use flannelctl::clean::{self, Left, Places};
use flannelctl::install::{Layout, Network, Plan};
use flannelctl::screen::Screen;
use flannelctl::{demo, status};
use kernel::Kernel;
use lab::executables::Executables;
use lab::mode::Mode;
use lab::process::become_child;

/// Shows, installs and explains the network.
#[derive(Parser)]
#[command(name = "flannelctl", version, max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a network of hosts on this machine, in namespaces that vanish at the end
    Demo {
        /// Number of hosts; every third is behind a router
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=30))]
        hosts: u8,
        /// The backend at the start
        #[arg(long, value_enum, default_value_t = Backend::Vxlan)]
        backend: Backend,
        /// Give pods IPv6 addresses too
        #[arg(long)]
        dual_stack: bool,
        /// Leave the network up and print how to enter it
        #[arg(long)]
        keep: bool,
    },
    /// Show what is left of attachments and routes on a host that has gone back to Go's programs; with --remove, remove it
    Clean {
        /// Remove what is shown
        #[arg(long)]
        remove: bool,
        /// Everything of a network that is given up: also flanneld's devices, routes, packet rules and files, and the pods' bridge
        #[arg(long)]
        all: bool,
        /// flannel's dataDir
        #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/flannel")]
        data_dir: PathBuf,
        /// The daemon's --subnet-file
        #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
        subnet_file: PathBuf,
    },
    /// Install the plugins, and a network's configuration if one is given; or remove what was installed
    Install(Install),
    /// Show this host's lease, backend and peers. Exit status: 0 ready, 1 not ready, 2 no status to be had
    Status {
        /// The daemon's --subnet-file
        #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
        subnet_file: PathBuf,
        /// Print the status as JSON, as the daemon writes it
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Install {
    /// The directories of a distribution
    #[arg(long, value_enum, default_value_t)]
    layout: Layout,
    /// The directory in which the runtime looks for plugins; default: the layout's
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// The executable; default: the cni-plugins beside flannelctl
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// A network's configuration (a conflist) to install, after the plugins
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// The directory in which the runtime looks for configurations; default: the layout's
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,
    /// The configuration's name there
    #[arg(long, value_name = "NAME", default_value = "10-flannel.conflist", value_parser = file_name)]
    conf_name: String,
    /// Remove the configuration and the plugins that were installed, and restore the plugins that they replaced
    #[arg(long, conflicts_with_all = ["from", "conf"])]
    uninstall: bool,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// A name that a runtime loads a list from.
fn file_name(text: &str) -> Result<String, &'static str> {
    let is_plain = !text.contains('/') && !text.starts_with('.') && text.len() <= 255;
    if is_plain && text.ends_with(".conflist") {
        Ok(text.to_owned())
    } else {
        Err("not a file name that ends with .conflist")
    }
}

impl Install {
    fn plan(self) -> Result<Plan, Box<dyn Error>> {
        let bin = self.bin_dir.unwrap_or_else(|| self.layout.bin());
        let to = self.conf_dir.unwrap_or_else(|| self.layout.conf()).join(self.conf_name);
        if self.uninstall {
            return Ok(Plan::uninstall(&bin, &to)?);
        }
        let beside = || std::env::current_exe().map(|me| me.with_file_name("cni-plugins"));
        let from = self.from.map_or_else(beside, Ok)?;
        let network = self.conf.map(|from| Network { from, to });
        Ok(Plan::install(&from, &bin, network.as_ref())?)
    }

    fn run(self, screen: &mut Screen) -> Result<(), Box<dyn Error>> {
        let dry_run = self.dry_run;
        let plan = self.plan()?;
        for step in plan.steps() {
            screen.line(step)?;
        }
        let mut notes = plan.notes().to_vec();
        match (plan.steps().is_empty(), dry_run) {
            (true, _) => screen.line("nothing is to be done")?,
            (false, true) => screen.line("nothing is done: this is a dry run")?,
            (false, false) => notes.extend(plan.execute()?),
        }
        for note in notes {
            screen.line(format_args!("note: {note}"))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    /// Every peer through VXLAN
    Vxlan,
    /// vxlan, but peers on the same segment directly
    DirectRouting,
    /// Every peer directly
    HostGw,
}

impl From<Backend> for Mode {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Vxlan => Self::Vxlan,
            Backend::DirectRouting => Self::DirectRouting,
            Backend::HostGw => Self::HostGw,
        }
    }
}

/// The exit status if the question has no answer, as for wrong arguments: a host that is not ready gives 1.
const NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let outcome = match become_child(std::env::args_os()) {
        Some(error) => Err(error.into()),
        None => run(Args::parse().command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // if stderr is closed, nothing can be reported
            let _ = writeln!(io::stderr(), "flannelctl: {error}");
            if error.is::<status::StatusError>() { ExitCode::from(NO_ANSWER) } else { ExitCode::FAILURE }
        }
    }
}

/// Continues after a failure, and reports the last one.
fn clean_up(
    screen: &mut Screen,
    (kernel, places): (&mut Kernel, &Places),
    left: &[Left],
    remove: bool,
) -> Result<(), Box<dyn Error>> {
    let mut outcome = Ok(());
    for left in left {
        screen.line(left)?;
        if let (true, Err(error)) = (remove, clean::remove(kernel, places, left)) {
            screen.line(format_args!("  not removed: {error}"))?;
            outcome = Err(error.into());
        }
    }
    match (left.is_empty(), remove) {
        (true, _) => screen.line("nothing is left")?,
        (false, false) => screen.line("nothing is removed: use --remove")?,
        (false, true) => {}
    }
    outcome
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let mut screen = Screen::new(Box::new(io::stdout()), io::stdout().is_terminal());
    match command {
        Command::Demo { hosts, backend, dual_stack, keep } => {
            screen.progress("building flanneld and the plugins if they are not up to date")?;
            // `cargo run` sets it and builds only this program
            let cargo = std::env::var_os("CARGO");
            let executables = Executables::beside(&std::env::current_exe()?, cargo.as_deref())?;
            let options = demo::Options { hosts: hosts.into(), backend: backend.into(), dual_stack, keep };
            Ok(demo::run(&options, &executables, &mut screen)?)
        }
        Command::Clean { remove, all, data_dir, subnet_file } => {
            let places = Places { records: DIRECTORY.into(), states: data_dir };
            let running = status::read(&subnet_file).is_ok_and(|(_, status)| status::is_running(&status));
            if all && running {
                return Err("flanneld runs, and would make everything again: stop it first".into());
            }
            let mut kernel = Kernel::open()?;
            let left = match all {
                true => clean::find_all(&mut kernel, &places, &subnet_file)?,
                false => clean::find(&mut kernel, &places, running)?,
            };
            if running {
                screen.line("flanneld runs, and needs its routes: none is looked at")?;
            }
            clean_up(&mut screen, (&mut kernel, &places), &left, remove)
        }
        Command::Install(install) => install.run(&mut screen),
        Command::Status { subnet_file, json } => {
            let (text, status) = status::read(&subnet_file)?;
            if json {
                screen.line(text.trim_end())?
            } else {
                status::show(&status, &mut screen)?
            }
            Ok(status::health(&status)?)
        }
    }
}
