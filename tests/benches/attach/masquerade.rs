//! Attachments with `ipMasq` on a host without rules, with one other pod's rules and with a thousand pods', in turn.
//! Each host is a network namespace. Debian's plugins masquerade with iptables, on a host of their own.

use std::path::Path;
use std::time::Duration;

use attachment::Key;
use attachment::rules::masquerade;
use ipnetwork::IpNetwork;
use kernel::Kernel;
use kernel::nft::Batch;
use lab::netns::Room;
use lab::{Doing, Error};
use tests::need::Need;

use crate::measure::{Series, quantile};
use crate::report::Row;
use crate::side::Side;

/// How many pods' rules there are beforehand.
const CROWDS: [usize; 3] = [0, 1, 1000];
/// Debian's plugins take part in one of this many rounds: one of their calls takes longer than twenty of ours.
const GO_SELDOM: usize = 4;
const GOAL: &str = "≤ 2.5 ms";

/// Hosts on which pods come and go.
pub struct Masquerade {
    ours: Vec<Host>,
    go: Option<Host>,
}

struct Host {
    room: Room,
    side: Side,
    kernel: Kernel,
    /// How many pods' rules stay.
    crowd: usize,
    series: Series,
}

impl Masquerade {
    /// Makes the hosts. `go` is where Debian's plugins are, if they are.
    pub fn new(bin: &Path, go: Option<&Path>, root: &Path) -> Result<Self, Error> {
        let host = |bin: &Path, crowd, name: &str, net| Host::new(Side::bridge(bin, root, name, net), name, crowd);
        let ours = CROWDS.into_iter().zip(90..);
        let go = go.filter(|_| Need::Program("iptables").absent().is_none());
        Ok(Self {
            ours: ours.map(|(crowd, net)| host(bin, crowd, &format!("masq{crowd}"), net)).collect::<Result<_, _>>()?,
            go: go.map(|go| host(go, 0, "masqgo", 89)).transpose()?,
        })
    }

    /// A pod comes and goes on each host.
    pub fn round(&mut self, n: usize, pod: &Room) -> Result<(), Error> {
        self.ours.iter_mut().try_for_each(|host| host.round(pod))?;
        self.go.iter_mut().filter(|_| n.is_multiple_of(GO_SELDOM)).try_for_each(|host| host.round(pod))
    }

    /// What came of it.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for host in &self.ours {
            let go = self.go.as_ref().filter(|_| host.crowd == 0).map(|go| &go.series);
            let [go_add, go_del] = go.map_or([&[][..]; 2], |go| [&go.add.times[..], &go.del.times]);
            let Series { add, del, .. } = &host.series;
            let beside = if host.crowd == 0 { "the host's first pod".into() } else { format!("beside {}", host.crowd) };
            rows.push(Row::times(&format!("ADD with ipMasq, {beside}"), &add.times, go_add, GOAL));
            rows.push(Row::times("the same DEL", &del.times, go_del, GOAL));
        }
        rows.push(Row::text("ADD and DEL beside 1,000, to the first pod's", self.slower(0), None, "≤ 1.2×"));
        rows.push(Row::text("the same, to that beside 1", self.slower(1), None, "≤ 1.2×"));
        rows
    }

    /// How much longer it takes in the largest crowd than on `host`.
    fn slower(&self, host: usize) -> String {
        let middle = |times: &[Duration]| quantile(times, 0.5).unwrap_or_default().as_secs_f64();
        let ratio = |of: fn(&Series) -> &[Duration]| match (self.ours.get(host), self.ours.last()) {
            (Some(few), Some(many)) => middle(of(&many.series)) / middle(of(&few.series)),
            _ => f64::NAN,
        };
        format!("{:.2}×, {:.2}×", ratio(|series| &series.add.times), ratio(|series| &series.del.times))
    }

    /// Ours left nothing.
    pub fn whole(&self) -> bool {
        self.ours.iter().all(|host| host.series.remains == 0 && host.series.left == 0)
    }
}

impl Host {
    /// A host at work: its bridge is there and in use, and so are the rules of `crowd` pods.
    fn new(side: Side, name: &str, crowd: usize) -> Result<Self, Error> {
        let room = Room::create(name)?;
        let keeper = Room::create(&format!("{name}-keeper"))?;
        room.enter(|| side.run("ADD", &keeper))??;
        let mut kernel = room.kernel()?;
        let net: IpNetwork = "10.99.1.2/16".parse().doing("read an address")?;
        for n in 0..crowd {
            let key = Key { network: "crowd", container: &format!("container{n}"), ifname: "eth0" };
            masquerade::rules(key, &[net], &[]).add(&mut kernel).doing("add a pod's rules")?;
        }
        Ok(Self { room, side: side.masquerade(), kernel, crowd, series: Series::default() })
    }

    fn round(&mut self, pod: &Room) -> Result<(), Error> {
        if self.crowd == 0 {
            self.forget_table()?;
        }
        let Self { room, side, kernel, series, .. } = self;
        room.enter(|| series.round(side, pod, kernel))??;
        let nft = self.kernel.nft().doing("open nf_tables")?;
        let rules = nft.rules(&masquerade::table(), Some("masq_checks")).doing("list rules")?;
        self.series.left += usize::from(rules.len() != self.crowd);
        Ok(())
    }

    /// As after a boot.
    fn forget_table(&mut self) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.destroy_table(&masquerade::table());
        self.kernel.nft().and_then(|nft| nft.commit(&batch)).doing("delete the table")?;
        // closing waits until the kernel has done with what was deleted
        drop(self.kernel.take_nft());
        Ok(())
    }
}
