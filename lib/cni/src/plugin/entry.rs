//! Serves one call of a plugin: environment and stdin in, stdout and exit status out.

use std::cell::RefCell;
use std::io::{Read, Write};

use gojson::Json;

use super::{Plugin, panic, perform, prepare};
use crate::conf::Head;
use crate::delegate::{Delegates, Environ};
use crate::env::{Command, Env};
use crate::error::{Error, code};
use crate::version::Version;

/// Serves one call and returns the exit status: 0, or 1 with an error object on `stdout`.
///
/// `suite` is every plugin of this executable. A delegate that is this very file runs in this process. `vars` looks up
/// an environment variable. Without CNI_COMMAND, a description of the plugin goes to `stderr`. A panic becomes an error
/// of code 999. The reply goes to `stdout` in one write; nothing else does.
pub fn serve(
    plugin: &dyn Plugin,
    suite: &[&dyn Plugin],
    vars: &dyn Fn(&str) -> Option<String>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> u8 {
    let stderr = RefCell::new(stderr);
    let say = |bytes: &[u8]| {
        // if stderr is closed, nothing can be reported
        let _ = stderr.borrow_mut().write_all(bytes);
    };
    let command = vars("CNI_COMMAND").unwrap_or_default();
    if command.is_empty() {
        say(about(plugin).as_bytes());
        return 0;
    }
    let document = RefCell::default();
    let call = Call { plugin, suite, command: &command, env: Env::read(vars), say: &say, document };
    let (answer, status) = match panic::caught(|| call.answer(stdin)) {
        Ok(text) => (text, 0),
        Err(error) => (error.to_json(), 1),
    };
    match stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => status,
        Err(cause) => {
            say(format!("{}: {command}: the answer cannot be written to stdout: {cause}\n", plugin.name()).as_bytes());
            if status == 0 && command == Command::Add.as_str() {
                call.take_back();
            }
            1
        }
    }
}

fn about(plugin: &dyn Plugin) -> String {
    let versions = plugin.versions().iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ");
    format!(
        "CNI {} plugin v{}\nCNI protocol versions supported: {versions}\n",
        plugin.name(),
        env!("CARGO_PKG_VERSION")
    )
}

fn versions(plugin: &dyn Plugin) -> String {
    let supported = plugin.versions().iter().map(|v| Json::from(v.as_str())).collect::<Vec<_>>();
    let members = [("cniVersion", Json::from(Version::NEWEST.as_str())), ("supportedVersions", Json::from(supported))];
    Json::from_iter(members).compact() + "\n"
}

struct Call<'a> {
    plugin: &'a dyn Plugin,
    suite: &'a [&'a dyn Plugin],
    command: &'a str,
    env: Env,
    say: &'a dyn Fn(&[u8]),
    /// The document that was read from stdin.
    document: RefCell<Vec<u8>>,
}

/// Bytes. A configuration with its prevResult is far shorter; a longer one could exhaust the host's memory.
const LONGEST: u64 = 16 * 1024 * 1024;

impl Call<'_> {
    fn answer(&self, stdin: &mut dyn Read) -> Result<String, Error> {
        let command = Command::parse(self.command);
        if command == Some(Command::Version) {
            return Ok(versions(self.plugin));
        }
        if let Some(command) = command {
            self.env.check(command)?;
        }
        // nearly every document fits, which saves reads; std first fills the whole buffer with zeros
        let mut bytes = Vec::with_capacity(2048);
        let read = stdin.take(LONGEST + 1).read_to_end(&mut bytes);
        read.map_err(|cause| Error::new(code::IO, format!("error reading from stdin: {cause}")))?;
        if bytes.len() as u64 > LONGEST {
            let limit = format!("the network config on stdin is longer than {LONGEST} bytes");
            return Err(Error::new(code::DECODE, limit));
        }
        let head = Head::read(&bytes)?;
        self.document.replace(bytes);
        let command = command
            .ok_or_else(|| Error::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {}", self.command)))?;
        self.work(command, head)
    }

    /// Calls DEL after an ADD that succeeded but that the runtime sees as failed.
    fn take_back(&self) {
        let delegates = Delegates::new(&self.env.path, self.suite, Environ::Inherit, self.say);
        let undone = panic::caught(|| {
            let head = Head::read(&self.document.borrow())?;
            let request = prepare(self.plugin, Command::Del, &self.env, head, &delegates)?;
            perform(self.plugin, Command::Del, &request)
        });
        if let Err(cause) = undone {
            (self.say)(format!("{}: the failed ADD could not be undone: {cause}\n", self.plugin.name()).as_bytes());
        }
    }

    fn work(&self, command: Command, head: Head) -> Result<String, Error> {
        let delegates = Delegates::new(&self.env.path, self.suite, Environ::Inherit, self.say);
        let request = prepare(self.plugin, command, &self.env, head, &delegates)?;
        let Some(result) = perform(self.plugin, command, &request)? else { return Ok(String::new()) };
        result.encode(request.conf.version).inspect_err(|_| {
            // the runtime sees a failed ADD
            if let Err(cause) = self.plugin.del(&request) {
                request.warn(self.plugin.name(), format_args!("the failed ADD could not be undone: {cause}"));
            }
        })
    }
}
