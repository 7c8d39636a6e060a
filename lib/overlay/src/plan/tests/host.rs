//! A host whose facts change one by one, written as people write them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::state::{Address, AddressKey, Link, LinkKind, Route, RouteKey, Secret, TunTap, Vxlan};
use kernel::survey::{SeenAddress, SeenLink};
use kernel::types::{IfIndex, IfName, Mac, Mtu, RouteProtocol, Vni};

use crate::backend::WireguardKeys;
use crate::lease::{LeaseAttrs, LeaseChanges, StoredLease, Subnets};
use crate::net::ByFamily;
use crate::netconf::NetConf;
use crate::ownership;
use crate::peers::Service;
use crate::plan::{Endpoints, Facts, Memory, Options, Own, Plan, plan};
use crate::underlay::Survey;

/// The facts, one after the other, and what is remembered.
pub struct Host {
    pub memory: Memory,
    start: Instant,
    pub millis: u64,
    pub conf: Arc<NetConf>,
    pub survey: Arc<Survey>,
    pub complete: bool,
    pub own: Option<Subnets>,
    pub published: Option<LeaseAttrs>,
    pub previous: Subnets,
    pub former: Vec<IpNetwork>,
    pub served: Option<Vec<IpNetwork>>,
    pub keys: Option<WireguardKeys>,
    pub printed: Option<String>,
    pub services: Vec<(IpAddr, Service)>,
    pub endpoints: Endpoints,
    pub options: Options,
}

impl Default for Host {
    fn default() -> Self {
        let conf = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
        Self {
            memory: Memory::default(),
            start: Instant::now(),
            millis: 0,
            conf: Arc::new(NetConf::parse(conf).unwrap().conf),
            survey: Arc::default(),
            complete: true,
            own: None,
            published: None,
            previous: Subnets::default(),
            former: Vec::new(),
            served: None,
            keys: None,
            printed: None,
            services: Vec::new(),
            endpoints: Endpoints::new(),
            options: Options { can_rename: true, ..Options::default() },
        }
    }
}

impl Host {
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            now: self.start + Duration::from_millis(self.millis),
            conf: &self.conf,
            survey: &self.survey,
            complete: self.complete,
            own: Own {
                subnets: self.own,
                published: self.published.as_ref(),
                previous: self.previous,
                former: &self.former,
                keys: self.keys,
                printed: self.printed.as_deref(),
                random: ByFamily { v4: [2, 0, 0, 0, 0, 4], v6: [2, 0, 0, 0, 0, 6] },
            },
            endpoints: &self.endpoints,
            services: &self.services,
            served: self.served.as_deref(),
            options: &self.options,
        }
    }

    pub fn plan(&mut self) -> Plan {
        let mut memory = std::mem::take(&mut self.memory);
        let plan = plan(&self.facts(), &mut memory);
        self.memory = memory;
        plan
    }

    /// The plan of a host that remembers as much as this one did in `memory`, and has planned nothing yet.
    pub fn plan_by(&self, memory: &mut Memory) -> Plan {
        plan(&self.facts(), memory)
    }

    /// The time of an instant that a plan names.
    pub fn millis_of(&self, at: Instant) -> u128 {
        at.duration_since(self.start).as_millis()
    }

    /// Lets a fact be as `line` says, such as `link eth0 mtu 1500`.
    pub fn learn(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
        match word {
            "at" => self.millis = rest.parse().unwrap(),
            "conf" => self.conf = Arc::new(NetConf::parse(rest.as_bytes()).unwrap().conf),
            "link" => {
                let mark = ownership::mark(self.conf.networks());
                Arc::make_mut(&mut self.survey).links.push(link(&words, mark));
            }
            "address" => Arc::make_mut(&mut self.survey).addresses.push(address(&words)),
            "route" => Arc::make_mut(&mut self.survey).routes.push(route(&words)),
            "limits" => {
                let three: Vec<u32> = words.iter().map(|word| word.parse().unwrap()).collect();
                Arc::make_mut(&mut self.survey).limits.v4 = Some(three.try_into().unwrap());
            }
            "no" => self.forget(&words),
            "lease" => self.lease(words[0], rest.split_once(' ').unwrap().1),
            "leases" => (0..words[0].parse().unwrap()).for_each(|n| self.lease(&nth_key(n), &nth_value(n))),
            "gone" => {
                let gone = vec![rest.parse().unwrap()];
                self.memory.apply(LeaseChanges { gone, ..LeaseChanges::default() });
            }
            "incomplete" => self.complete = false,
            "complete" => self.complete = true,
            "own" => self.own = Some(rest.parse().unwrap()),
            "published" => self.published = LeaseAttrs::parse(rest.as_bytes()).ok(),
            "previous" => self.previous = rest.parse().unwrap(),
            "former" => self.former.push(rest.parse().unwrap()),
            "served" => self.served = Some(words.iter().map(|net| net.parse().unwrap()).collect()),
            "wireguard-keys" => {
                self.keys = Some(WireguardKeys { private: Secret([64; 32]), public: rest.parse().unwrap() });
            }
            "printed" => self.printed = Some(rest.to_owned()),
            "service" => self.services.push((rest.parse().unwrap(), Service::Store)),
            "endpoint" => {
                let from = words[1..].iter().map(|addr| addr.parse().unwrap()).collect();
                self.endpoints.insert(words[0].parse().unwrap(), from);
            }
            "option" => self.option(&words),
            _ => panic!("{line}"),
        }
    }

    fn forget(&mut self, words: &[&str]) {
        let survey = Arc::make_mut(&mut self.survey);
        match words {
            ["link", name] => survey.links.retain(|seen| seen.name.as_str() != *name),
            ["address", net] => survey.addresses.retain(|seen| seen.key.net.to_string() != *net),
            _ => panic!("{words:?}"),
        }
    }

    fn option(&mut self, words: &[&str]) {
        match words {
            ["iface", name] => self.options.select.iface = vec![(*name).to_owned()],
            ["public-ip", addr] => self.options.select.public_ip = addr.parse().ok(),
            ["blackhole"] => self.options.blackhole = true,
            ["no-rename"] => self.options.can_rename = false,
            _ => panic!("{words:?}"),
        }
    }

    /// What the store says under `key`.
    pub fn lease(&mut self, key: &str, value: &str) {
        let changes = match StoredLease::read(key, value.as_bytes(), 0) {
            Ok(lease) => LeaseChanges { put: vec![lease], ..LeaseChanges::default() },
            Err(refusal) => LeaseChanges { refused: vec![(key.to_owned(), Some(refusal))], ..LeaseChanges::default() },
        };
        self.memory.apply(changes);
    }
}

/// The key of one of many leases.
pub fn nth_key(n: u32) -> String {
    format!("{}-24", std::net::Ipv4Addr::from((10 << 24) + (16 << 16) + (n << 8)))
}

/// Its value: a host with backend vxlan behind a router.
pub fn nth_value(n: u32) -> String {
    let [_, b, c, d] = n.to_be_bytes();
    let public = std::net::Ipv4Addr::from((172 << 24) | (16 << 16) | (n + 1));
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:01:{b:02x}:{c:02x}:{d:02x}"}}}}"#
    )
}

/// The value of the word after `word`.
fn after<'a>(words: &[&'a str], word: &str) -> Option<&'a str> {
    words.iter().position(|found| *found == word).map(|at| words[at + 1])
}

/// `flannel.1 vxlan 1 port 4789 mac 02:… mtu 1450 ours`; `theirs 10.7.0.0/16` is another network's.
fn link(words: &[&str], mark: String) -> SeenLink {
    let name = IfName::new(words[0]).unwrap();
    let kind = match after(words, "vxlan") {
        Some(vni) => LinkKind::Vxlan(Vxlan {
            port: after(words, "port").map(|port| port.parse().unwrap()),
            ..Vxlan::new(Vni::new(vni.parse().unwrap()).unwrap())
        }),
        None if words.contains(&"tun") => LinkKind::TunTap(TunTap::default()),
        None if words.contains(&"wireguard") => LinkKind::Wireguard,
        None => LinkKind::Other(String::new()),
    };
    SeenLink {
        index: IfIndex(after(words, "index").map_or(7, |index| index.parse().unwrap())),
        link: Link {
            up: !words.contains(&"down"),
            mtu: Some(Mtu(after(words, "mtu").map_or(1500, |mtu| mtu.parse().unwrap()))),
            mac: after(words, "mac").map(|mac| mac.parse::<Mac>().unwrap()),
            alias: after(words, "theirs")
                .map_or(words.contains(&"ours").then_some(mark), |net| Some(format!("flannel {net}"))),
            ..Link::up(kind)
        },
        name,
        master: None,
        lower: None,
        lower_elsewhere: None,
        port: None,
        running: !words.contains(&"down"),
        operstate: "Up".into(),
        queue: String::new(),
        ipv6: None,
    }
}

/// `eth0 192.0.2.1/24`
fn address(words: &[&str]) -> SeenAddress {
    SeenAddress {
        key: AddressKey { dev: IfName::new(words[0]).unwrap(), net: words[1].parse().unwrap() },
        address: Address::default(),
        tentative: false,
        dad_failed: false,
        permanent: true,
        secondary: false,
        deprecated: false,
        global: true,
    }
}

/// `192.0.2.0/24 dev eth0`
fn route(words: &[&str]) -> (RouteKey, Route) {
    let dst = match words[0] {
        "default" => "0.0.0.0/0",
        "default6" => "::/0",
        dst => dst,
    };
    let dev = IfName::new(after(words, "dev").unwrap()).unwrap();
    let route = Route { via: after(words, "via").map(|via| via.parse().unwrap()), ..Route::by(&dev) };
    (RouteKey::main(dst.parse().unwrap()), Route { protocol: RouteProtocol::KERNEL, ..route })
}
