//! The `CNI_*` variables: what is required by which command, and how it must look.

use std::cell::OnceCell;
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, code};

/// What the runtime wants (CNI_COMMAND).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Undo an ADD; must succeed when there is nothing to undo.
    Del,
    /// Is the attachment as ADD left it? From 0.4.0.
    Check,
    /// Remove what belongs to no valid attachment. From 1.1.0.
    Gc,
    /// Could an ADD be served? From 1.1.0.
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    /// All.
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

    /// Case matters.
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

/// The other variables; an unset one is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// CNI_CONTAINERID
    pub container_id: String,
    /// CNI_NETNS: a path.
    pub netns: String,
    /// CNI_IFNAME: the name inside the container.
    pub ifname: String,
    /// CNI_ARGS, unparsed: see [`crate::args`].
    pub args: String,
    /// CNI_PATH: directories of plugins, separated by `:`.
    pub path: String,
    /// CNI_NETNS_OVERRIDE: the plugin may run inside CNI_NETNS.
    pub netns_override: bool,
    /// What is at CNI_NETNS, once a plugin has opened it.
    pub opened: Opened,
}

/// An open CNI_NETNS. The path is used once, and the plugins that delegate to each other in one process work on the
/// same file: the path may lead elsewhere a moment later.
#[derive(Debug, Default)]
pub struct Opened(OnceCell<Arc<File>>);

impl Opened {
    /// The open file, by `open` when no plugin has opened it yet. A failure is not remembered.
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

/// A copy is of another call: it opens the path anew.
impl Clone for Opened {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Variables are equal when their texts are.
impl PartialEq for Opened {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Opened {}

impl Env {
    /// Reads the variables, without a check.
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
            opened: Opened::default(),
        }
    }

    /// Whether it serves this command: a badly formed value is reported before the missing ones are listed (code 4).
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

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`: container ids and network names, which become parts of paths.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// CNI_CONTAINERID, code 4.
pub fn check_container_id(id: &str) -> Result<(), Error> {
    if is_identifier(id) {
        return Ok(());
    }
    Err(bad_environment("invalid characters in containerID").with_details(id))
}

/// CNI_IFNAME, code 4: what the kernel takes as the name of an interface.
pub fn check_ifname(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(bad_environment("interface name is empty"));
    }
    // IFNAMSIZ of linux/if.h, less the closing zero
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
