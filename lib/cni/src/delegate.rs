//! Calls another plugin: finds it on CNI_PATH, and runs it in this process if it is this very executable
//! or a copy of it.

#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::conf::Head;
use crate::env::{Command, Env};
use crate::error::Error;
use crate::plugin::{Plugin, panic, perform, prepare};
use crate::quote;
use crate::result::AddResult;
use crate::trace::TRACEPARENT;
use crate::version::Version;

/// A delegate's environment, besides the `CNI_*` variables.
#[derive(Debug, Clone, Default)]
pub enum Environ {
    /// The variables of this process.
    #[default]
    Inherit,
    /// Exactly these variables.
    Exactly(Vec<(OsString, OsString)>),
}

/// Calls other plugins.
pub struct Delegates<'a> {
    path: &'a str,
    suite: &'a [&'a dyn Plugin],
    environ: Environ,
    stderr: &'a dyn Fn(&[u8]),
    /// This executable.
    own: OnceCell<Option<Metadata>>,
    depth: Cell<u32>,
}

/// How deep delegates may nest in this process. It stops a plugin that names itself as its delegate.
const MAX_DEPTH: u32 = 8;

impl<'a> Delegates<'a> {
    /// `path` is CNI_PATH. `suite` are the plugins of this executable; if empty, every delegate is executed. `stderr`
    /// receives what delegates write to stderr.
    pub fn new(path: &'a str, suite: &'a [&'a dyn Plugin], environ: Environ, stderr: &'a dyn Fn(&[u8])) -> Self {
        Self { path, suite, environ, stderr, own: OnceCell::new(), depth: Cell::new(0) }
    }

    /// Calls ADD of the plugin `kind` with the document `conf`. A reply without `cniVersion` has the version of `conf`.
    /// The delegate's own error object is returned unchanged; code 0 means that the delegate printed none.
    pub fn add(&self, kind: &str, conf: &[u8], env: &Env) -> Result<AddResult, Error> {
        self.run(Command::Add, kind, conf, env).map(Option::unwrap_or_default)
    }

    /// Calls DEL; errors as in [`Delegates::add`].
    pub fn del(&self, kind: &str, conf: &[u8], env: &Env) -> Result<(), Error> {
        self.run(Command::Del, kind, conf, env).map(drop)
    }

    /// Calls CHECK; errors as in [`Delegates::add`].
    pub fn check(&self, kind: &str, conf: &[u8], env: &Env) -> Result<(), Error> {
        self.run(Command::Check, kind, conf, env).map(drop)
    }

    /// Calls GC; errors as in [`Delegates::add`].
    pub fn gc(&self, kind: &str, conf: &[u8], env: &Env) -> Result<(), Error> {
        self.run(Command::Gc, kind, conf, env).map(drop)
    }

    /// Calls STATUS; errors as in [`Delegates::add`].
    pub fn status(&self, kind: &str, conf: &[u8], env: &Env) -> Result<(), Error> {
        self.run(Command::Status, kind, conf, env).map(drop)
    }

    pub(crate) fn say(&self, bytes: &[u8]) {
        (self.stderr)(bytes);
    }

    fn run(&self, command: Command, kind: &str, conf: &[u8], env: &Env) -> Result<Option<AddResult>, Error> {
        let (file, metadata) = find(kind, self.path)?;
        match self.suite.iter().find(|plugin| plugin.name() == kind) {
            Some(plugin) if self.is_own(&metadata) => self.in_process(*plugin, command, conf, env),
            _ => self.execute(&file, command, conf, env),
        }
    }

    fn is_own(&self, file: &Metadata) -> bool {
        let own = self.own.get_or_init(|| fs::metadata("/proc/self/exe").ok());
        own.as_ref().is_some_and(|own| is_same(own, file))
    }

    fn in_process(
        &self,
        plugin: &dyn Plugin,
        command: Command,
        conf: &[u8],
        env: &Env,
    ) -> Result<Option<AddResult>, Error> {
        if self.depth.get() >= MAX_DEPTH {
            let name = plugin.name();
            return Err(Error::config(format!(
                "{name}: delegates nest deeper than {MAX_DEPTH}: does one name itself?"
            )));
        }
        env.check(command)?;
        let request = prepare(plugin, command, env, Head::read(conf)?, self)?;
        self.depth.set(self.depth.get() + 1);
        // a panic becomes an error, as of another process, so that the caller can undo its part
        let outcome = panic::caught(|| perform(plugin, command, &request));
        self.depth.set(self.depth.get() - 1);
        outcome
    }

    fn execute(&self, file: &Path, command: Command, conf: &[u8], env: &Env) -> Result<Option<AddResult>, Error> {
        let span = env.trace.map(|trace| trace.child().to_string());
        let output = execute(file, &variables(command, env, span.as_deref()), &self.environ, conf)?;
        if !output.stderr.is_empty() {
            self.say(&output.stderr);
        }
        if command != Command::Add {
            return Ok(None);
        }
        let version = config_version(conf);
        AddResult::parse(&output.stdout, version).map(Some).map_err(|cause| {
            Error::from(cause).context(format_args!("{}: its ADD succeeded but the result is unusable", file.display()))
        })
    }
}

/// Whether two files are one executable: one inode, or two copies of one installation. `flannelctl install` gives all its copies
/// the same time, to the nanosecond; archives have whole seconds, which say nothing.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let changed = |file: &Metadata| (file.size(), file.mtime(), file.mtime_nsec());
    let is_copy = one.mtime_nsec() != 0 && changed(one) == changed(other);
    one.dev() == other.dev() && (one.ino() == other.ino() || is_copy)
}

/// The version of a reply without `cniVersion`.
fn config_version(conf: &[u8]) -> Version {
    Head::read(conf).ok().and_then(|head| head.version.parse().ok()).unwrap_or(Version::V010)
}

/// Finds the regular file `kind` in the first directory of `path` that has one. Errors have code 999, as the Go
/// library's have.
///
/// A name with `/`, and `.` and `..`, are errors: the file must be inside the directory.
pub fn find(kind: &str, path: &str) -> Result<(PathBuf, Metadata), Error> {
    if kind.is_empty() {
        return Err(Error::internal("no plugin name provided"));
    }
    if kind == "." || kind == ".." || kind.contains(['/', '\0']) {
        return Err(Error::internal(format_args!("invalid plugin name: {kind}")));
    }
    // for Go an empty element is the working directory, but a plugin there would be an accident
    let directories: Vec<&str> = path.split(':').filter(|d| !d.is_empty()).collect();
    if directories.is_empty() {
        return Err(Error::internal("no paths provided"));
    }
    for directory in &directories {
        let file = Path::new(directory).join(kind);
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => return Ok((file, metadata)),
            _ => {}
        }
    }
    let path = directories.join(" ");
    Err(Error::internal(format_args!("failed to find plugin {} in path [{path}]", quote(kind))))
}

/// The variables that libcni and the plugins set, even to an empty value.
fn variables<'a>(command: Command, env: &'a Env, span: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
    let mut all = vec![
        ("CNI_COMMAND", command.as_str()),
        ("CNI_CONTAINERID", env.container_id.as_str()),
        ("CNI_NETNS", env.netns.as_str()),
        ("CNI_ARGS", env.args.as_str()),
        ("CNI_IFNAME", env.ifname.as_str()),
        ("CNI_PATH", env.path.as_str()),
    ];
    if env.netns_override {
        all.push(("CNI_NETNS_OVERRIDE", "TRUE"));
    }
    all.extend(span.map(|span| (TRACEPARENT, span)));
    all
}

/// Runs the delegate to its end with `conf` on stdin. The error is the delegate's own error object, or one of code 0.
fn execute(file: &Path, variables: &[(&str, &str)], environ: &Environ, conf: &[u8]) -> Result<Output, Error> {
    let mut command = std::process::Command::new(file);
    if let Environ::Exactly(vars) = environ {
        command.env_clear().envs(vars.iter().map(|(k, v)| (k, v)));
    }
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command).and_then(|child| converse(child, conf));
    let output = output.map_err(|cause| no_message(format_args!("exec {}: {cause}", file.display())))?;
    if output.status.success() { Ok(output) } else { Err(complaint(&output)) }
}

/// Retries while the executable is being replaced (ETXTBSY), for 5 s. The Go library tries 6 times, a second apart.
fn spawn(command: &mut std::process::Command) -> io::Result<Child> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut pause = Duration::from_millis(10);
    loop {
        match command.spawn() {
            Err(busy) if busy.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            outcome => return outcome,
        }
    }
}

/// Bytes that every pipe holds without a reader (PIPE_BUF, pipe(7)).
const ALWAYS_FITS: usize = 4096;

fn converse(mut child: Child, conf: &[u8]) -> io::Result<Output> {
    let Some(mut stdin) = child.stdin.take() else { return child.wait_with_output() };
    // a delegate may close its stdin without reading it, as GC allows; that is no failure
    if conf.len() <= ALWAYS_FITS {
        let _ = stdin.write_all(conf);
        drop(stdin);
        return child.wait_with_output();
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(conf);
        });
        child.wait_with_output()
    })
}

fn no_message(cause: impl std::fmt::Display) -> Error {
    Error::new(0, format!("netplugin failed with no error message: {cause}"))
}

fn complaint(output: &Output) -> Error {
    let text = |bytes: &[u8]| quote(&String::from_utf8_lossy(bytes));
    if !output.stdout.is_empty() {
        return gojson::decode(&output.stdout).unwrap_or_else(|cause| {
            let said = text(&output.stdout);
            Error::new(0, format!("netplugin failed but error parsing its diagnostic message {said}: {cause}"))
        });
    }
    if !output.stderr.is_empty() {
        return Error::new(0, format!("netplugin failed: {}", text(&output.stderr)));
    }
    no_message(end(output.status))
}

fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
