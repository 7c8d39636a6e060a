//! The `CNI_*` variables: which command requires which, and which values are valid.

use std::cell::OnceCell;
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, code};
use crate::trace::{TRACEPARENT, Trace};

/// CNI_COMMAND: the operation that the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attaches a container.
    Add,
    /// Undoes an ADD. Must succeed if there is nothing to undo.
    Del,
    /// Checks that the attachment is as ADD made it. From 0.4.0.
    Check,
    /// Removes what belongs to no valid attachment. From 1.1.0.
    Gc,
    /// Checks that an ADD could be served. From 1.1.0.
    Status,
    /// Lists the supported versions.
    Version,
}

impl Command {
    /// All commands.
    pub const ALL: &'static [Self] = &[Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// The text of CNI_COMMAND.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Parses the text of CNI_COMMAND. Case matters.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text)
    }

    fn is_for_an_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The other variables. An unset one is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// CNI_CONTAINERID
    pub container_id: String,
    /// CNI_NETNS: a path.
    pub netns: String,
    /// CNI_IFNAME: the name inside the container.
    pub ifname: String,
    /// CNI_ARGS as text: see [`crate::args`].
    pub args: String,
    /// CNI_PATH: directories of plugins, separated by `:`.
    pub path: String,
    /// CNI_NETNS_OVERRIDE: the plugin may run inside CNI_NETNS.
    pub netns_override: bool,
    /// TRACEPARENT: the span of this call. `None` if it is unset or invalid.
    pub trace: Option<Trace>,
    /// The file at CNI_NETNS, once a plugin has opened it.
    pub opened: Opened,
}

/// The open CNI_NETNS. Plugins that delegate to each other in one process share the file and use the path only once,
/// because the path may lead elsewhere a moment later.
#[derive(Debug, Default)]
pub struct Opened(OnceCell<Arc<File>>);

impl Opened {
    /// The open file. Calls `open` if no plugin has opened it yet. After a failure the next call tries again.
    pub fn get_or_open<E>(&self, open: impl FnOnce() -> Result<Arc<File>, E>) -> Result<Arc<File>, E> {
        let file = match self.0.get() {
            Some(file) => file,
            None => {
                let file = open()?;
                self.0.get_or_init(|| file)
            }
        };
        Ok(Arc::clone(file))
    }
}

/// A clone belongs to another call, so it opens the path again.
impl Clone for Opened {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Compares nothing: two sets of variables are equal if their texts are.
impl PartialEq for Opened {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Opened {}

impl Env {
    /// Reads the variables and checks none.
    pub fn read(vars: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| vars(name).unwrap_or_default();
        let netns_override = get("CNI_NETNS_OVERRIDE");
        Self {
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
            netns_override: netns_override == "1" || netns_override.eq_ignore_ascii_case("true"),
            trace: get(TRACEPARENT).parse().ok(),
            opened: Opened::default(),
        }
    }

    /// Checks the variables for this command. An invalid value is reported before missing ones. All errors have code 4.
    pub fn check(&self, command: Command) -> Result<(), Error> {
        let attachment = command.is_for_an_attachment();
        let mut missing = Vec::new();
        let mut look = |name: &'static str, value: &str, required: bool, valid: fn(&str) -> Result<(), Error>| {
            if !required {
                return Ok(());
            }
            if value.is_empty() {
                missing.push(name);
                return Ok(());
            }
            valid(value)
        };
        look("CNI_CONTAINERID", &self.container_id, attachment, check_container_id)?;
        look("CNI_NETNS", &self.netns, matches!(command, Command::Add | Command::Check), |_| Ok(()))?;
        look("CNI_IFNAME", &self.ifname, attachment, check_ifname)?;
        look("CNI_PATH", &self.path, command != Command::Version, |_| Ok(()))?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(bad_environment(format!("required env variables [{}] missing", missing.join(","))))
    }
}

fn bad_environment(msg: impl Into<String>) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, msg)
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`: container IDs and network names, which become parts of paths.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Checks a CNI_CONTAINERID. An invalid one is an error of code 4.
pub fn check_container_id(id: &str) -> Result<(), Error> {
    if is_identifier(id) {
        return Ok(());
    }
    Err(bad_environment("invalid characters in containerID").with_details(id))
}

/// Checks a CNI_IFNAME by the kernel's rules for interface names. An invalid one is an error of code 4.
pub fn check_ifname(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(bad_environment("interface name is empty"));
    }
    // IFNAMSIZ of linux/if.h, minus the terminating zero
    if name.len() > 15 {
        return Err(bad_environment("interface name is too long")
            .with_details("interface name should be less than 16 characters"));
    }
    if name == "." || name == ".." {
        return Err(bad_environment("interface name is . or .."));
    }
    if name.chars().any(|c| matches!(c, '/' | ':') || c.is_whitespace()) {
        return Err(bad_environment("interface name contains / or : or whitespace characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(id: &str, netns: &str, ifname: &str, path: &str) -> Env {
        let text = str::to_owned;
        Env { container_id: text(id), netns: text(netns), ifname: text(ifname), path: text(path), ..Env::default() }
    }

    fn complaint(env: &Env, command: Command) -> String {
        env.check(command).err().map(|e| format!("{} {}|{}", e.code, e.msg, e.details)).unwrap_or_default()
    }

    #[test]
    fn missing_variables_are_listed_per_command() {
        let none = Env::default();
        let all = "4 required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing|";
        assert_eq!(complaint(&none, Command::Add), all);
        assert_eq!(complaint(&none, Command::Check), all);
        assert_eq!(
            complaint(&none, Command::Del),
            "4 required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing|"
        );
        assert_eq!(complaint(&none, Command::Gc), "4 required env variables [CNI_PATH] missing|");
        assert_eq!(complaint(&none, Command::Status), "4 required env variables [CNI_PATH] missing|");
        assert_eq!(complaint(&none, Command::Version), "");
    }

    #[test]
    fn a_bad_value_comes_before_missing_ones() {
        let bad_id = "4 invalid characters in containerID|a/b";
        assert_eq!(complaint(&env("a/b", "", "", ""), Command::Add), bad_id);
        assert_eq!(complaint(&env("a/b", "", "a b", ""), Command::Add), bad_id);
        assert_eq!(complaint(&env("", "", ".", ""), Command::Add), "4 interface name is . or ..|");
        assert_eq!(complaint(&env("a/b", "", ".", "/p"), Command::Gc), "");
    }

    #[test]
    fn container_ids() {
        for good in ["a", "0", "a_b.c-D9", "a.."] {
            assert_eq!(check_container_id(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "-a", "_a", "a/b", "a b", "a\n", "é", "aé", "a\0"] {
            assert!(check_container_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "a", "...", "fifteen-bytes-x", "eth0.100", "é"] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        let long = check_ifname("sixteen-bytes-xx").unwrap_err();
        assert_eq!(
            (long.msg.as_str(), long.details.as_str()),
            ("interface name is too long", "interface name should be less than 16 characters")
        );
        assert_eq!(check_ifname("..").unwrap_err().msg, "interface name is . or ..");
        for bad in ["a/b", "a:b", "a b", "a\tb", "a\u{a0}b", "a\u{2003}"] {
            assert_eq!(
                check_ifname(bad).unwrap_err().msg,
                "interface name contains / or : or whitespace characters",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn overrides() {
        for (text, expected) in
            [("TRUE", true), ("true", true), ("tRuE", true), ("1", true), ("yes", false), ("", false)]
        {
            let vars = |name: &str| (name == "CNI_NETNS_OVERRIDE").then(|| text.to_owned());
            assert_eq!(Env::read(&vars).netns_override, expected, "{text}");
        }
    }

    #[test]
    fn commands_are_case_sensitive() {
        assert_eq!(Command::parse("ADD"), Some(Command::Add));
        assert_eq!(Command::parse("add"), None);
        assert_eq!(Command::parse(""), None);
    }
}
