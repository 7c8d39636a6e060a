//! What one suite attaches, the other checks, detaches and collects: each pair of Debian's Go plugins (1.1.1) and ours, for each
//! kind of masquerade. Where a pair differs, the test names it, and `flannelctl clean` removes what is left.

use flannelctl::clean::{self, Left, Places};
use serde_json::{Value, json};
use tests::drill::snapshot::Lines;
use tests::harness::Outcome;

use crate::call::{Answer, Caller, Whose};
use crate::drills::bare;
use crate::drills::rows::{self, Row};
use crate::drills::stage::{Stage, succeeded};

pub type Failure = Box<dyn std::error::Error>;

/// A kind of attachment.
pub struct Kind {
    /// Its configuration.
    pub row: &'static Row,
    /// More of it.
    pub more: fn() -> Value,
    /// What Go's DEL and GC of ours leave, beside the record: parts of its lines.
    pub left: &'static [&'static str],
    /// Go's first DEL of ours fails.
    pub fails: bool,
    /// Go's CHECK of ours fails: it looks for its own objects only.
    pub unseen: bool,
    /// What our GC of Go's leaves, because it says neither network nor container.
    pub nameless: &'static [&'static str],
    /// Where Go finds programs, if not where ours does.
    pub path: Option<fn() -> Result<String, Failure>>,
}

/// Either suite ends wholly what the other has begun.
pub const fn kind(row: &'static Row) -> Kind {
    Kind { row, more: || json!({}), left: &[], fails: false, unseen: false, nameless: &[], path: None }
}

const BRIDGE: Kind = kind(&rows::BRIDGE);
const MACVLAN: Kind = kind(&rows::MACVLAN);
const LOOPBACK: Kind = kind(&rows::LOOPBACK);
const IPTABLES: Kind = Kind { more: || json!({ "ipMasq": true, "ipMasqBackend": "iptables" }), ..kind(&rows::BRIDGE) };
/// Go 1.1.1 knows iptables only: its DEL looks for rules there, and fails without them.
const NFTABLES: Kind = Kind {
    more: || json!({ "ipMasq": true, "ipMasqBackend": "nftables" }),
    left: &["nft table inet cni_plugins_masquerade"],
    fails: true,
    ..kind(&rows::BRIDGE)
};

/// Both suites on one host.
pub struct Pair {
    ours: Caller,
    go: Caller,
    kind: Kind,
    /// What ADD and DEL of either suite leave that attachments share.
    shared: Lines,
}

impl Pair {
    pub fn new(kind: Kind, go: Caller) -> Result<Self, Failure> {
        let ours = Caller::new(Whose::Ours);
        let go = match kind.path {
            Some(path) => go.with_path(&path()?),
            None => go,
        };
        let mut pair = Self { ours, go, kind, shared: Lines::new() };
        for caller in [&pair.ours, &pair.go] {
            let stage = pair.stage()?;
            let before = stage.state()?;
            succeeded(&stage.call_by(caller, "ADD", &pair.conf(&stage))?)?;
            succeeded(&stage.call_by(caller, "DEL", &pair.conf(&stage))?)?;
            let more: Lines = stage.state()?.difference(&before).map(|line| bare(line).to_owned()).collect();
            stage.remove()?;
            pair.shared.extend(more);
        }
        Ok(pair)
    }

    fn stage(&self) -> Result<Stage<'_>, Failure> {
        Stage::new(&self.ours, self.kind.row, false)
    }

    /// What both suites know.
    fn conf(&self, stage: &Stage<'_>) -> Value {
        let mut conf = stage.conf.clone();
        conf["cniVersion"] = "1.0.0".into();
        if let (Some(conf), Value::Object(more)) = (conf.as_object_mut(), (self.kind.more)()) {
            conf.extend(more);
        }
        conf
    }

    fn with_result(&self, stage: &Stage<'_>, answer: &Answer) -> Result<Value, Failure> {
        let mut conf = self.conf(stage);
        conf["prevResult"] = succeeded(answer)?;
        Ok(conf)
    }

    /// What is there that was not there before, the shared things apart.
    fn more(&self, stage: &Stage<'_>, before: &Lines) -> Result<Vec<String>, Failure> {
        let now = stage.state()?;
        let new = now.difference(before).filter(|line| !self.shared.contains(bare(line)));
        Ok(new.cloned().collect())
    }

    pub fn ours_ends_what_go_began(&self) -> Outcome {
        let stage = self.stage()?;
        let before = stage.state()?;
        let added = stage.call_by(&self.go, "ADD", &self.conf(&stage))?;
        let conf = self.with_result(&stage, &added)?;
        succeeded(&stage.call_by(&self.ours, "CHECK", &conf)?)?;
        succeeded(&stage.call_by(&self.ours, "DEL", &conf)?)?;
        assert_eq!(self.more(&stage, &before)?, [""; 0], "after our DEL of Go's");
        stage.remove()
    }

    /// The pod's own links end with its namespace.
    pub fn ours_collects_what_go_began(&self) -> Outcome {
        let left = self.left_by_gc(&self.go, &self.ours)?;
        let named = |line: &String| self.kind.nameless.iter().any(|part| line.contains(part));
        let unnamed: Vec<String> = left.into_iter().filter(|line| !named(line)).collect();
        assert_eq!(unnamed, [""; 0], "after our GC of Go's");
        Ok(())
    }

    /// Go's GC leaves much of its own, too.
    pub fn go_collects_what_ours_began(&self) -> Outcome {
        let own: Lines = self.left_by_gc(&self.go, &self.go)?.iter().map(|line| constant(line)).collect();
        let named = |line: &String| {
            line.contains("/run/cni-attachments/") || self.kind.left.iter().any(|part| line.contains(part))
        };
        let left = self.left_by_gc(&self.ours, &self.go)?;
        let more: Vec<&String> = left.iter().filter(|line| !own.contains(&constant(line)) && !named(line)).collect();
        assert_eq!(more, [""; 0], "after Go's GC of ours");
        Ok(())
    }

    /// What is left, the pod's links apart, after one suite has attached and the other's GC finds no valid attachment.
    fn left_by_gc(&self, adds: &Caller, collects: &Caller) -> Result<Vec<String>, Failure> {
        let stage = self.stage()?;
        let before = stage.state()?;
        succeeded(&stage.call_by(adds, "ADD", &self.conf(&stage))?)?;
        let mut conf = self.conf(&stage);
        conf["cniVersion"] = "1.1.0".into();
        conf["cni.dev/valid-attachments"] = json!([]);
        succeeded(&stage.call_by(collects, "GC", &conf)?)?;
        let of_link = |line: &String| {
            line.starts_with("pod: ")
                || ["host: link veth", " of veth", " dev veth"].iter().any(|part| line.contains(part))
        };
        let left = self.more(&stage, &before)?.into_iter().filter(|line| !of_link(line)).collect();
        stage.remove()?;
        Ok(left)
    }

    pub fn go_ends_what_ours_began(&self) -> Outcome {
        let stage = self.stage()?;
        let before = stage.state()?;
        let added = stage.call_by(&self.ours, "ADD", &self.conf(&stage))?;
        let conf = self.with_result(&stage, &added)?;
        let checked = stage.call_by(&self.go, "CHECK", &conf)?;
        assert_eq!(checked.status != 0, self.kind.unseen, "{checked:?}");
        let first = stage.call_by(&self.go, "DEL", &conf)?;
        assert_eq!(first.status != 0, self.kind.fails, "{first:?}");
        succeeded(&stage.call_by(&self.go, "DEL", &conf)?)?;
        let named = |line: &String| {
            line.contains("/run/cni-attachments/") || self.kind.left.iter().any(|part| line.contains(part))
        };
        let unnamed: Vec<String> = self.more(&stage, &before)?.into_iter().filter(|line| !named(line)).collect();
        assert_eq!(unnamed, [""; 0], "after Go's DEL of ours");
        stage.end_pod()?;
        self.clean(&stage)?;
        // tables without elements are shared
        let table = |line: &String| {
            let of_attachments = line.contains("saddr 10.") || line.contains("comment");
            self.kind.left.iter().any(|part| line.contains(part)) && !of_attachments
        };
        let left: Vec<String> = self.more(&stage, &before)?.into_iter().filter(|line| !table(line)).collect();
        assert_eq!(left, [""; 0], "after flannelctl clean");
        stage.remove()
    }

    /// Cleans up, and finds nothing more.
    fn clean(&self, stage: &Stage<'_>) -> Outcome {
        let places = Places { records: attachment::record::DIRECTORY.into(), states: stage.folder().join("flannel") };
        stage.in_host(|| -> Result<(), Failure> {
            let mut kernel = kernel::Kernel::open()?;
            for left in clean::find(&mut kernel, &places, false)? {
                clean::remove(&mut kernel, &places, &left)?;
            }
            assert_eq!(clean::find(&mut kernel, &places, false)?, Vec::<Left>::new());
            Ok(())
        })?
    }
}

/// A line without the parts that differ from run to run: MAC addresses, the names of veth devices, a file's content.
fn constant(line: &str) -> String {
    let line = line.split(": {").next().unwrap_or(line);
    let is_random = |word: &&str| word.trim_start_matches('"').starts_with("veth") || word.matches(':').count() == 5;
    line.split(' ').map(|word| if is_random(&word) { "?" } else { word }).collect::<Vec<_>>().join(" ")
}

/// Three tests per kind.
macro_rules! pairs {
    ($($kind:ident: $go_then_ours:ident $go_then_gc:ident $ours_then_go:ident),*) => {
        $(
            pub fn $go_then_ours() -> Outcome {
                Pair::new($kind, Caller::new(Whose::Reference))?.ours_ends_what_go_began()
            }
            pub fn $go_then_gc() -> Outcome {
                Pair::new($kind, Caller::new(Whose::Reference))?.ours_collects_what_go_began()
            }
            pub fn $ours_then_go() -> Outcome {
                Pair::new($kind, Caller::new(Whose::Reference))?.go_ends_what_ours_began()
            }
        )*
    };
}

pairs!(
    BRIDGE: bridge_of_go_by_ours bridge_of_go_by_our_gc bridge_of_ours_by_go,
    IPTABLES: iptables_of_go_by_ours iptables_of_go_by_our_gc iptables_of_ours_by_go,
    NFTABLES: masquerade_of_go_by_ours masquerade_of_go_by_our_gc nftables_of_ours_by_go,
    MACVLAN: macvlan_of_go_by_ours macvlan_of_go_by_our_gc macvlan_of_ours_by_go,
    LOOPBACK: loopback_of_go_by_ours loopback_of_go_by_our_gc loopback_of_ours_by_go
);

/// An attachment that lives is not cleaned up.
pub fn what_lives_is_not_cleaned_up() -> Outcome {
    let pair = Pair::new(NFTABLES, Caller::new(Whose::Reference))?;
    let stage = pair.stage()?;
    succeeded(&stage.call_by(&pair.ours, "ADD", &pair.conf(&stage))?)?;
    let before = stage.state()?;
    pair.clean(&stage)?;
    assert_eq!(stage.state()?, before);
    stage.remove()
}
