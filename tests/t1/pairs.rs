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

type Failure = Box<dyn std::error::Error>;

/// A kind of attachment.
struct Kind {
    row: &'static Row,
    more: fn() -> Value,
    /// What Go's DEL of ours leaves, beside the record: parts of its lines.
    left: &'static [&'static str],
    /// Go's first DEL of ours fails.
    fails: bool,
}

const fn kind(row: &'static Row) -> Kind {
    Kind { row, more: || json!({}), left: &[], fails: false }
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
struct Pair {
    ours: Caller,
    go: Caller,
    kind: Kind,
    /// What ADD and DEL of either suite leave that attachments share.
    shared: Lines,
}

impl Pair {
    fn new(kind: Kind) -> Result<Self, Failure> {
        let (ours, go) = (Caller::new(Whose::Ours), Caller::new(Whose::Reference));
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

    fn ours_ends_what_go_began(&self) -> Outcome {
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
    fn ours_collects_what_go_began(&self) -> Outcome {
        let stage = self.stage()?;
        let before = stage.state()?;
        succeeded(&stage.call_by(&self.go, "ADD", &self.conf(&stage))?)?;
        let mut conf = self.conf(&stage);
        conf["cniVersion"] = "1.1.0".into();
        conf["cni.dev/valid-attachments"] = json!([]);
        succeeded(&stage.call_by(&self.ours, "GC", &conf)?)?;
        let links = |line: &String| line.starts_with("pod: ") || line.starts_with("host: link veth");
        let left: Vec<String> = self.more(&stage, &before)?.into_iter().filter(|line| !links(line)).collect();
        assert_eq!(left, [""; 0], "after our GC of Go's");
        stage.remove()
    }

    fn go_ends_what_ours_began(&self) -> Outcome {
        let stage = self.stage()?;
        let before = stage.state()?;
        let added = stage.call_by(&self.ours, "ADD", &self.conf(&stage))?;
        let conf = self.with_result(&stage, &added)?;
        succeeded(&stage.call_by(&self.go, "CHECK", &conf)?)?;
        let first = stage.call_by(&self.go, "DEL", &conf)?;
        assert_eq!(first.status != 0, self.kind.fails, "{first:?}");
        succeeded(&stage.call_by(&self.go, "DEL", &conf)?)?;
        let named = |line: &String| {
            line.contains("/run/cni-attachments/") || self.kind.left.iter().any(|part| line.contains(part))
        };
        let unnamed: Vec<String> = self.more(&stage, &before)?.into_iter().filter(|line| !named(line)).collect();
        assert_eq!(unnamed, [""; 0], "after Go's DEL of ours");
        self.clean(&stage)?;
        // the table of the rules is shared
        let table =
            |line: &String| line.contains("nft table inet cni_plugins_masquerade") && !line.contains("saddr 10.");
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

/// Three tests per kind.
macro_rules! pairs {
    ($($kind:ident: $go_then_ours:ident $go_then_gc:ident $ours_then_go:ident),*) => {
        $(
            pub fn $go_then_ours() -> Outcome {
                Pair::new($kind)?.ours_ends_what_go_began()
            }
            pub fn $go_then_gc() -> Outcome {
                Pair::new($kind)?.ours_collects_what_go_began()
            }
            pub fn $ours_then_go() -> Outcome {
                Pair::new($kind)?.go_ends_what_ours_began()
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
    let pair = Pair::new(NFTABLES)?;
    let stage = pair.stage()?;
    succeeded(&stage.call_by(&pair.ours, "ADD", &pair.conf(&stage))?)?;
    let before = stage.state()?;
    pair.clean(&stage)?;
    assert_eq!(stage.state()?, before);
    stage.remove()
}
