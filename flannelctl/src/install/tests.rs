use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use cni::{MARK, SUITE};

use super::*;

struct Host {
    dir: tempfile::TempDir,
}

const LIST: &str = r#"{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel"},{"type":"portmap"}]}"#;

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bin(&self) -> PathBuf {
        self.path("opt/cni/bin")
    }

    fn target(&self) -> PathBuf {
        self.path("etc/cni/net.d/10-flannel.conflist")
    }

    /// An executable of ours with this content.
    fn source(&self, content: &str) -> PathBuf {
        let path = self.path("source");
        fs::write(&path, [content.as_bytes(), MARK].concat()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn network(&self, list: &str) -> Network {
        fs::write(self.path("cni-conf.json"), list).unwrap();
        Network { from: self.path("cni-conf.json"), to: self.target() }
    }

    fn install(&self, content: &str) -> Plan {
        let plan = Plan::install(&self.source(content), &self.bin(), Some(&self.network(LIST))).unwrap();
        assert_eq!(plan.execute().unwrap(), Vec::<String>::new());
        plan
    }

    fn uninstall(&self) -> Plan {
        let plan = Plan::uninstall(&self.bin(), &self.target()).unwrap();
        plan.execute().unwrap();
        plan
    }

    fn theirs(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.bin()).unwrap();
        let path = self.bin().join(name);
        fs::write(&path, format!("their {name}")).unwrap();
        path
    }
}

fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_of_its_own_under_every_name_and_then_the_configuration() {
    let host = Host::new();
    for content in ["old", "new"] {
        let plan = host.install(content);
        assert!(matches!(plan.steps().last(), Some(Step::Conf { .. })) == (content == "old"), "{:?}", plan.steps());
        assert_eq!(listed(&host.bin()), SUITE);
        let paths = SUITE.map(|name| host.bin().join(name));
        let metadata = paths.clone().map(|path| fs::metadata(path).unwrap());
        assert_eq!(metadata.iter().map(MetadataExt::ino).collect::<BTreeSet<_>>().len(), SUITE.len());
        let times: BTreeSet<_> = metadata.iter().map(|file| (file.mtime(), file.mtime_nsec())).collect();
        assert!(times.len() == 1 && times.iter().all(|(_, nanoseconds)| *nanoseconds != 0), "{times:?}");
        for (path, metadata) in paths.iter().zip(&metadata) {
            assert_eq!(fs::read(path).unwrap(), fs::read(host.path("source")).unwrap());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::read_to_string(host.target()).unwrap(), LIST);
        assert_eq!(fs::metadata(host.target()).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(host.install(content).steps(), [], "the same again");
    }
}

/// What the init container of Go flanneld does: `cp -f` writes into the file that is there.
#[test]
fn an_installer_that_writes_into_a_file_changes_one_plugin() {
    let host = Host::new();
    host.install("ours");
    fs::write(host.bin().join("flannel"), "Go's").unwrap();
    assert!(fs::read_to_string(host.bin().join("bridge")).unwrap().starts_with("ours"));
    let steps: Vec<String> = host.uninstall().steps().iter().map(ToString::to_string).collect();
    assert_eq!(steps.len(), SUITE.len(), "the list and all plugins but one: {steps:?}");
    assert_eq!(listed(&host.bin()), ["flannel"]);
}

#[test]
fn what_was_replaced_comes_back() {
    let host = Host::new();
    let bridge = host.theirs("bridge");
    host.theirs("dhcp");
    symlink("dhcp", host.bin().join("flannel")).unwrap();
    for content in ["old", "new"] {
        host.install(content);
        assert!(fs::read_to_string(&bridge).unwrap().starts_with(content));
        assert_eq!(fs::read_to_string(host.bin().join(".bridge.replaced")).unwrap(), "their bridge");
        assert!(host.bin().join("flannel").symlink_metadata().unwrap().is_file());
    }
    host.uninstall();
    assert_eq!(listed(&host.bin()), ["bridge", "dhcp", "flannel"]);
    assert_eq!(fs::read_to_string(&bridge).unwrap(), "their bridge");
    assert_eq!(fs::read_link(host.bin().join("flannel")).unwrap(), Path::new("dhcp"));
    assert!(!host.target().exists());
    assert_eq!(host.uninstall().steps(), [], "again");
}

#[test]
fn the_newest_of_another_suite_is_kept() {
    let host = Host::new();
    host.theirs("ptp");
    host.install("ours");
    fs::remove_file(host.bin().join("ptp")).unwrap();
    fs::write(host.bin().join("ptp"), "upgraded").unwrap();
    host.install("ours");
    assert_eq!(fs::read_to_string(host.bin().join(".ptp.replaced")).unwrap(), "upgraded");
    // an installer that runs after ours wins, and what was kept is of no use
    fs::remove_file(host.bin().join("ptp")).unwrap();
    fs::write(host.bin().join("ptp"), "upgraded again").unwrap();
    host.uninstall();
    assert_eq!(listed(&host.bin()), ["ptp"]);
    assert_eq!(fs::read_to_string(host.bin().join("ptp")).unwrap(), "upgraded again");
}

#[test]
fn a_network_of_another_plugin_stays() {
    let host = Host::new();
    host.install("ours");
    let other = LIST.replace(r#"{"type":"flannel"},"#, r#"{"type":"calico"},"#);
    fs::write(host.target(), &other).unwrap();
    let plan = host.uninstall();
    assert!(plan.notes().iter().any(|note| note.ends_with("stays: it is not a network of flannel")));
    assert_eq!(fs::read_to_string(host.target()).unwrap(), other);
    assert_eq!(listed(&host.bin()), <[&str; 0]>::default());
}

#[test]
fn an_operator_is_told_what_keeps_the_network_from_use() {
    let host = Host::new();
    fs::create_dir_all(host.target().parent().unwrap()).unwrap();
    fs::write(host.path("etc/cni/net.d/05-cilium.conflist"), "{}").unwrap();
    fs::write(host.path("etc/cni/net.d/05-cilium.backup"), "{}").unwrap();
    let network = host.network(&LIST.replace("portmap", "sbr"));
    let plan = Plan::install(&host.source("ours"), &host.bin(), Some(&network)).unwrap();
    let [absent, first] = plan.notes() else { panic!("{:?}", plan.notes()) };
    assert!(absent.contains("the plugin sbr is not in "), "{absent}");
    assert!(first.contains("05-cilium.conflist comes before "), "{first}");
    assert_eq!(listed(host.dir.path()), ["cni-conf.json", "etc", "source"], "a plan changes nothing");
}

#[test]
fn drafts_of_killed_installers_go() {
    let host = Host::new();
    host.theirs(".bridge.draft-0123456789abcdef");
    fs::create_dir_all(host.target().parent().unwrap()).unwrap();
    fs::write(host.target().with_file_name(".10-flannel.conflist.draft-0123456789abcdef"), "").unwrap();
    host.install("ours");
    assert_eq!(listed(&host.bin()), SUITE);
    assert_eq!(listed(host.target().parent().unwrap()), ["10-flannel.conflist"]);
}

/// Without SELinux the kernel keeps the attribute for whoever may write it; where it does not, there is no label to keep.
#[test]
fn a_label_is_kept_or_named() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let host = Host::new();
    host.install("old");
    let path = host.bin().join("bridge");
    let label = b"system_u:object_r:container_file_t:s0\0";
    let labelled = setxattr(&path, "security.selinux", label, XattrFlags::empty()).is_ok();
    let notes = Plan::install(&host.source("new"), &host.bin(), None).unwrap().execute().unwrap();
    let mut found = [0; 256];
    let length = getxattr(&path, "security.selinux", &mut found[..]).unwrap_or_default();
    let expected: &[u8] = if labelled { label } else { b"" };
    assert_eq!(&found[..length], expected);
    assert_eq!(notes, Vec::<String>::new());
}

#[test]
fn refusals_say_why_and_change_nothing() {
    let host = Host::new();
    let bin = host.bin();
    fs::create_dir_all(bin.join("vxlan")).unwrap();
    let good = host.source("ours");
    let (plain, foreign) = (host.path("plain"), host.path("foreign"));
    fs::write(&plain, "").unwrap();
    fs::write(&foreign, "#!/bin/sh").unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
    for (from, to, words) in [
        (host.path("none"), &bin, "none: No such file"),
        (host.dir.path().to_owned(), &bin, "not an executable file"),
        (plain.clone(), &bin, "not an executable file"),
        (foreign, &bin, "not the executable of the plugins"),
        (good.clone(), &plain, "not a directory"),
        (good.clone(), &bin, "vxlan is a directory"),
        (good.clone(), &PathBuf::from("/proc/none"), "make directory /proc/none"),
    ] {
        let error = install(&from, to).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
    assert_eq!(listed(&bin), ["vxlan"]);
    for (list, words) in [
        ("", "cni-conf.json: "),
        ("{}", "cni-conf.json: "),
        (r#"{"name":"cbr0","cniVersion":"1.0.0"}"#, "the list has no plugin"),
        (r#"{"name":"cbr0","cniVersion":"9.0.0","plugins":[{"type":"flannel"}]}"#, "9.0.0"),
    ] {
        let network = host.network(list);
        let error = Plan::install(&good, &host.path("empty"), Some(&network)).unwrap_err().to_string();
        assert!(error.contains(words), "{list}: {error}");
    }
    fs::create_dir_all(host.target()).unwrap();
    let error = Plan::install(&good, &host.path("empty"), Some(&host.network(LIST))).unwrap_err();
    assert!(matches!(error, InstallError::Taken(_)), "{error}");
    assert!(!host.path("empty").exists());
}

#[test]
fn layouts_are_the_distributions() {
    let dirs = |layout: Layout| (layout.bin(), layout.conf());
    assert_eq!(dirs(Layout::default()), ("/opt/cni/bin".into(), "/etc/cni/net.d".into()));
    assert!(dirs(Layout::K3s).1.starts_with("/var/lib/rancher/k3s/agent"));
    assert!(dirs(Layout::Microk8s).0.starts_with("/var/snap/microk8s/current"));
}
