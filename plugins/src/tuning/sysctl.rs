//! The names of kernel parameters, and the list of those that may be set.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cni::error::Error;
use regex_lite::Regex;

/// Upstream's list of the parameters that may be set: regular expressions, one per line. Without the file all may be.
pub const ALLOWED: &str = "/etc/cni/tuning/allowlist.conf";

/// The values by path below `/proc/sys`.
pub fn paths(named: &[(String, String)], ifname: &str, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, value) in named {
        match path(name, ifname) {
            None => mistakes.push(format!("invalid net sysctl key: {name:?}")),
            Some(path) if found.contains_key(&path) => {
                mistakes.push(format!("sysctl has {path} twice: duplicated sysctl keys are not allowed"));
            }
            Some(path) => drop(found.insert(path, value.clone())),
        }
    }
    found
}

/// The path of a parameter below `/proc/sys`. The name has dots or slashes. `None` if it is not below `net`.
fn path(name: &str, ifname: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    // as sysctl(8): behind slashes, the dots of an interface's name are its own; upstream always replaces them
    let parts: Vec<String> = match parts[..] {
        ["net", family @ ("ipv4" | "ipv6"), kind @ ("conf" | "neigh"), dev, key] if !key.contains('.') => {
            ["net", family, kind, dev, key].map(str::to_owned).into()
        }
        _ => name.split(['.', '/']).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
    };
    let path = parts.join("/").replacen("IFNAME", ifname, 1);
    let is_safe = |part: &str| !matches!(part, "." | "..") && !part.contains('\0');
    let below_net = path.strip_prefix("net/").is_some_and(|rest| !rest.is_empty());
    (below_net && path.split('/').all(is_safe)).then_some(path)
}

/// Refuses parameters that the list does not have.
///
/// # Errors
/// The list cannot be read, is no list of regular expressions, or does not have one of the names.
pub fn check_allowed(file: &Path, names: &[String]) -> Result<(), Error> {
    let text = match fs::read_to_string(file) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|cause| Error::internal(format!("tuning: read {}: {cause}", file.display())))?,
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let allowed = lines.iter().map(|line| Regex::new(line)).collect::<Result<Vec<_>, _>>();
    let allowed = allowed.map_err(|cause| Error::internal(format!("tuning: {}: {cause}", file.display())))?;
    let refused = names.iter().filter(|name| !allowed.iter().any(|regex| regex.is_match(name)));
    let refused: Vec<String> = refused.map(|name| format!("Sysctl {name} is not allowed.")).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let only = format!("Only the following sysctls are allowed: [{}]", lines.join(" "));
    Err(Error::config(format!("{} {only}", refused.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        for (name, wanted) in [
            ("net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/eth0.7/arp_filter"),
            ("net/ipv4/conf/IFNAME/arp_filter", "net/ipv4/conf/eth0.7/arp_filter"),
            ("net.core.somaxconn", "net/core/somaxconn"),
            ("/net/core/somaxconn", "net/core/somaxconn"),
            ("net/core.somaxconn", "net/core/somaxconn"),
            ("net/ipv4/conf/all.forwarding", "net/ipv4/conf/all/forwarding"),
            ("net/ipv6/conf/eth0.100/forwarding", "net/ipv6/conf/eth0.100/forwarding"),
            ("net/ipv4/neigh/eth0.100/gc_stale_time", "net/ipv4/neigh/eth0.100/gc_stale_time"),
            ("net.ipv4..ip_forward", "net/ipv4/ip_forward"),
            // as upstream: each dot is a slash
            ("../net/core/somaxconn", "net/core/somaxconn"),
        ] {
            assert_eq!(path(name, "eth0.7").as_deref(), Some(wanted), "{name}");
        }
    }

    #[test]
    fn no_path_leaves_net() {
        for name in [
            "",
            "net",
            "net.",
            "net/",
            "kernel.panic",
            "netx.core.somaxconn",
            "/proc/sys/net/core/somaxconn",
            "net/ipv4/conf/../../../../kernel/panic",
            "net/ipv4/conf/../accept_ra",
            "net/ipv4/conf/./accept_ra",
            "net/core/somax\0conn",
            "Net.core.somaxconn",
        ] {
            let found = path(name, "eth0");
            let inside =
                found.as_deref().is_none_or(|path| path.starts_with("net/") && !path.split('/').any(|p| p == ".."));
            assert!(
                inside && (found.is_none() || name == "net/ipv4/conf/../../../../kernel/panic"),
                "{name}: {found:?}"
            );
        }
        // an interface cannot have such a name; the path is safe all the same
        assert_eq!(path("net.ipv4.conf.IFNAME.x", ".."), None);
        assert_eq!(path("net.ipv4.conf.IFNAME.x", "a/../b"), None);
    }

    #[test]
    fn what_the_list_does_not_have_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("allowlist.conf");
        let names = ["net.ipv4.conf.all.forwarding", "net.core.somaxconn", "net.ipv4.ip_forward"].map(str::to_owned);
        assert_eq!(check_allowed(&file, &names), Ok(()), "there is no list");
        fs::write(&file, "^net\\.ipv4\\.conf\\.[a-z]*\\.forwarding$\n\n  somaxconn \n").unwrap();
        let error = check_allowed(&file, &names).unwrap_err();
        assert_eq!(error.code, 7);
        assert_eq!(
            error.msg,
            "Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: \
             [^net\\.ipv4\\.conf\\.[a-z]*\\.forwarding$ somaxconn]"
        );
        assert_eq!(check_allowed(&file, &names[..2]), Ok(()));
        fs::write(&file, "[").unwrap();
        assert_eq!(check_allowed(&file, &names).unwrap_err().code, 999);
        fs::write(&file, "").unwrap();
        assert!(check_allowed(&file, &[]).is_ok() && check_allowed(&file, &names).is_err());
        assert_eq!(check_allowed(dir.path(), &names).unwrap_err().code, 999, "a folder");
    }
}
