//! What there is in a network namespace and in folders, as lines: read by iproute2, nft and the file system, and not by
//! the code that is tested.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::netns::Room;

/// One line per object.
pub type Lines = BTreeSet<String>;

/// What `ip` lists. Rules of IPv6 are listed apart, because a batch has one family.
const LISTS: &str = "link show\naddr show\nroute show table all\nrule show\nneigh show\n";

/// Settings of a namespace that a network may need.
const SETTINGS: [&str; 6] =
    ["ipv4/ip_forward", "ipv4/conf/all", "ipv4/conf/default", "ipv6/conf/all", "ipv6/conf/default", "ipv6/conf/lo"];

/// The links, addresses, routes, rules, permanent neighbours, queueing disciplines, nf_tables objects and settings of a namespace. What the
/// kernel derives from them, and changes by itself later, is left out.
pub fn namespace(room: &Room) -> Result<Lines, Box<dyn std::error::Error>> {
    room.enter(|| {
        let listed = run(Command::new("ip").args(["-o", "-d", "-batch", "-"]), LISTS)?;
        let mut lines: Lines = listed.lines().filter_map(object).collect();
        let rules = run(Command::new("ip").args(["-6", "-o", "rule", "show"]), "")?;
        lines.extend(rules.lines().map(|rule| format!("IPv6 rule {rule}")));
        let queues = run(Command::new("tc").args(["qdisc", "show"]), "")?;
        // the kernel's own disciplines have no number
        lines.extend(queues.lines().filter(|line| !line.contains(" 0: ")).map(|line| line.trim().to_owned()));
        lines.extend(ruleset(&run(Command::new("nft").args(["-a", "list", "ruleset"]), "")?));
        for path in SETTINGS {
            settings(&Path::new("/proc/sys/net").join(path), &mut lines)?;
        }
        Ok(lines)
    })?
}

/// The links, addresses, routes and permanent neighbours of a pod's namespace.
pub fn inside(room: &Room) -> Result<Lines, Box<dyn std::error::Error>> {
    let listed = room.enter(|| run(Command::new("ip").args(["-o", "-d", "-batch", "-"]), LISTS))??;
    Ok(listed.lines().filter_map(object).collect())
}

/// The files below `dir` and, except of those whose content may change freely, their content. `skip` are names that are
/// left out.
pub fn files(dir: &Path, skip: &[&str]) -> io::Result<Lines> {
    let mut lines = Lines::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match () {
                () if skip.contains(&name.as_str()) => {}
                () if path.is_dir() => folders.push(path),
                () => drop(lines.insert(file(&path, &name)?)),
            }
        }
    }
    Ok(lines)
}

fn file(path: &PathBuf, name: &str) -> io::Result<String> {
    let free = name.starts_with('.') || name.starts_with("last_reserved_ip") || name == "lock";
    let content = if free { String::new() } else { format!(": {}", String::from_utf8_lossy(&fs::read(path)?).trim()) };
    Ok(format!("file {}{content}", path.display()))
}

fn run(command: &mut Command, input: &str) -> io::Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// An object of a line of `ip -o -d`; `None` for what is left out.
fn object(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1)).copied();
    match words[..] {
        [number, name, "inet" | "inet6", address, ..] if number.ends_with(':') => {
            (!address.starts_with("fe80:")).then(|| format!("address {address} of {name}"))
        }
        [number, name, flags, ..] if number.ends_with(':') && flags.starts_with('<') => {
            let name = name.trim_end_matches(':').split('@').next().unwrap_or(name);
            let up = flags.split(['<', ',', '>']).any(|flag| flag == "UP");
            let (mtu, master) = (after("mtu").unwrap_or("?"), after("master").unwrap_or("none"));
            let mac = if name == "lo" { None } else { after("link/ether") };
            Some(format!("link {name} up {up} mtu {mtu} master {master} mac {}", mac.unwrap_or("none")))
        }
        [priority, "from", ..] if priority.ends_with(':') => Some(format!("rule {}", words.join(" "))),
        _ if line.contains(" lladdr ") => line.contains("PERMANENT").then(|| format!("neighbour {}", words.join(" "))),
        _ => route(&words),
    }
}

/// A route that somebody wrote.
fn route(words: &[&str]) -> Option<String> {
    let derived =
        words.windows(2).any(|two| two == ["proto", "kernel"]) || words.iter().any(|w| w.starts_with("fe80:"));
    let of_interest = !derived && !words.is_empty() && !matches!(words.last(), Some(&"NOARP" | &"FAILED"));
    let words: Vec<&str> = words.iter().copied().filter(|word| *word != "linkdown").collect();
    of_interest.then(|| format!("route {}", words.join(" ")))
}

/// The lines of `nft -a list ruleset`, each behind its table and chain.
fn ruleset(text: &str) -> Lines {
    let (mut place, mut lines) = (Vec::new(), Lines::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // a handle is another one when the object is made again
        let bare = line.split(" # handle").next().unwrap_or(line);
        if line == "}" {
            place.pop();
            continue;
        }
        lines.insert(format!("nft {} {bare}", place.join(" ")).replace("  ", " "));
        if let Some(opened) = bare.strip_suffix('{') {
            place.push(opened.trim().to_owned());
        }
    }
    lines
}

fn settings(path: &Path, lines: &mut Lines) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            settings(&entry?.path(), lines)?;
        }
        return Ok(());
    }
    // some can only be written; the secret of stable addresses cannot be read before it is set
    let Ok(value) = fs::read_to_string(path) else { return Ok(()) };
    let name = path.strip_prefix("/proc/sys/net").unwrap_or(path);
    lines.insert(format!("setting {} = {}", name.display(), value.trim()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ip_become_objects() {
        let link = "2: cni0@if3: <BROADCAST,UP> mtu 1500 qdisc noqueue master br0 state UP \\    link/ether 4e:ab:9a:33:ae:f6 brd ff";
        assert_eq!(object(link).unwrap(), "link cni0 up true mtu 1500 master br0 mac 4e:ab:9a:33:ae:f6");
        let address = "2: cni0    inet 10.9.1.1/24 brd 10.9.1.255 scope global cni0\\       valid_lft forever";
        assert_eq!(object(address).unwrap(), "address 10.9.1.1/24 of cni0");
        assert_eq!(object("2: cni0    inet6 fe80::1/64 scope link"), None);
        assert_eq!(object("10.9.1.0/24 dev cni0 proto kernel scope link src 10.9.1.1 linkdown"), None);
        let route = "unicast 10.9.2.0/24 via 192.0.2.2 dev eth0 proto 71 scope global linkdown";
        assert_eq!(object(route).unwrap(), "route unicast 10.9.2.0/24 via 192.0.2.2 dev eth0 proto 71 scope global");
        assert_eq!(object("0:\tfrom all lookup local").unwrap(), "rule 0: from all lookup local");
        assert_eq!(object("10.1.1.1 dev eth0 lladdr 02:00:00:00:00:01 REACHABLE"), None);
        assert!(object("10.1.1.1 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT").unwrap().starts_with("neighbour"));
    }

    #[test]
    fn rules_stand_behind_their_chain() {
        let text =
            "table inet t { # handle 1\n\tchain c { # handle 2\n\t\tip saddr 1.1.1.1 accept # handle 9\n\t}\n}\n";
        let wanted =
            ["nft table inet t {", "nft table inet t chain c {", "nft table inet t chain c ip saddr 1.1.1.1 accept"];
        assert_eq!(ruleset(text), wanted.map(str::to_owned).into());
    }
}
