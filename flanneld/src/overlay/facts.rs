//! Gathers the facts for a plan.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::types::{Family, IfName, RouteProtocol, TableId};
use kernel::{Kernel, KernelError, sysctl};
use overlay::backend::WireguardKeys;
use overlay::lease::{LeaseAttrs, Subnets};
use overlay::limits::{self, Limits};
use overlay::net::ByFamily;
use overlay::netconf::NetConf;
use overlay::peers::{self, Service};
use overlay::plan::{self, Endpoints, Facts, Own};
use overlay::subnet_env::{Previous, SubnetEnv};
use overlay::underlay::{self, Select, Survey, Underlay};
use store::{Store, StoreHealth, StoreOptions, files};

use super::pass::Failure;
use super::{bridge_filter, wireguard_key};
use crate::claims::{self, Claims};
use crate::config::Config;
use crate::events::Events;
use crate::events::facts::{self, Chosen, Named};
use crate::flags::Options;
use crate::kernel_thread::KernelThread;

/// subnet.env has at most six lines; a larger file, in bytes, is not subnet.env.
const LARGEST_SUBNET_FILE: u64 = 64 * 1024;

/// Bytes. glibc reads three servers and six domains (resolv.conf(5)).
const LARGEST_RESOLV_CONF: u64 = 64 * 1024;

/// What is known about the store, the kernel and this host, and how it is gathered.
pub(super) struct Known {
    pub(super) options: Arc<Options>,
    plan: plan::Options,
    pub(super) health: StoreHealth,
    /// The network's configuration in the store.
    pub(super) text: Option<Arc<[u8]>>,
    config: Config,
    /// The last survey of the host; `None`: it must be repeated.
    pub(super) survey: Option<Arc<Survey>>,
    /// The subnet.env of the last run, once it has been read.
    previous: Option<Previous>,
    keys: Option<WireguardKeys>,
    pub(super) endpoints: Endpoints,
    services: Vec<(IpAddr, Service)>,
    claims: Claims,
    watched: Option<Watched>,
}

/// What the kernel's announcements are compared with, and what that was made from.
struct Watched {
    survey: Arc<Survey>,
    chosen: Chosen,
    devices: Vec<IfName>,
    named: Named,
    facts: Arc<facts::Facts>,
}

/// The gathered facts of a pass.
pub(super) struct Gathered {
    pub(super) conf: Arc<NetConf>,
    pub(super) survey: Arc<Survey>,
    pub(super) previous: Previous,
    /// The networks that other flannelds serve, until this one has announced its own.
    served: Option<Vec<IpNetwork>>,
    /// Whether the last plan was carried out, and the kernel has announced nothing since.
    pub(super) unchanged: bool,
}

impl Known {
    pub(super) fn new(options: Options, store: &Store) -> Self {
        Self {
            plan: plan::Options {
                select: options.select.clone(),
                blackhole: options.blackhole_route,
                rules: options.rules.clone(),
                can_rename: ::kernel::release::renames_links(),
            },
            options: Arc::new(options),
            health: store.health(),
            text: None,
            config: Config::new(store.no_config()),
            survey: None,
            previous: None,
            keys: None,
            endpoints: Endpoints::new(),
            services: Vec::new(),
            claims: Claims::default(),
            watched: None,
        }
    }

    /// Whether the store was read, or reading it has failed.
    pub(super) fn is_read(&self) -> bool {
        self.health.complete || self.health.error.is_some()
    }

    /// What the operator should know of the kernel's filter of bridges. It matters beside kube-proxy.
    pub(super) fn bridge_filter(&self, conf: &NetConf) -> Vec<String> {
        if !matches!(self.options.store, StoreOptions::Kubernetes(_)) {
            return Vec::new();
        }
        let families: Vec<Family> = conf.families().map(|(family, _)| family).collect();
        bridge_filter::warnings(&families, &|name| sysctl::read(name).ok().flatten())
    }

    /// Why the current configuration is not the store's.
    pub(super) fn config_error(&self) -> Option<&str> {
        self.config.error()
    }

    /// Gathers the facts that are missing.
    pub(super) async fn gather(
        &mut self,
        kernel: &KernelThread,
        events: &Events,
        store: &Store,
    ) -> Result<Gathered, Failure> {
        // a store that was not read yet has no configuration, which is no reason to report that it is missing
        let read = self.health.complete || self.health.remembered.is_some();
        if read && self.config.take(self.text.as_ref()) {
            // Another backend has other devices.
            self.survey = None;
        }
        self.select(store)?;
        let conf = self.config.good().cloned();
        let Some(conf) = conf else {
            return Err(Failure::Wait(self.config.error().unwrap_or("the store has not been read yet").to_owned()));
        };
        let unchanged = self.survey.is_some();
        let survey = match &self.survey {
            Some(survey) => survey.clone(),
            None => self.read(kernel, events, conf.families().map(|(family, _)| family).collect()).await?,
        };
        self.services = store.addresses().into_iter().map(|addr| (addr, Service::Store)).collect();
        self.learn_keys(&conf).await?;
        let (previous, served) = (self.previous().await, self.claim(&conf).await?);
        Ok(Gathered { conf, survey, previous, served, unchanged })
    }

    /// Takes the addresses that the store has for this host's underlay, instead of the flags'.
    fn select(&mut self, store: &Store) -> Result<(), Failure> {
        let set = store.own_addresses().map_err(|error| Failure::Retry(error.to_string()))?;
        let mut select = self.options.select.clone();
        if let Some(IpAddr::V4(addr)) = set.v4 {
            select.public_ip = Some(addr);
        }
        if let Some(IpAddr::V6(addr)) = set.v6 {
            select.public_ipv6 = Some(addr);
        }
        if select != self.plan.select {
            tracing::info!(public_ip = ?select.public_ip, public_ipv6 = ?select.public_ipv6, "the store sets the published addresses");
            self.plan.select = select;
            self.survey = None;
        }
        Ok(())
    }

    /// Reads what the choice of the underlay depends on.
    async fn read(
        &mut self,
        kernel: &KernelThread,
        events: &Events,
        families: Vec<Family>,
    ) -> Result<Arc<Survey>, Failure> {
        let can_reach = self.options.select.can_reach;
        events.survey_begins();
        let select = self.options.select.clone();
        let survey = kernel.call(move |kernel| survey(kernel, can_reach, &select, &families)).await;
        let survey =
            survey.map_err(|error| Failure::Stop(error.into()))?.map_err(|error| Failure::Retry(error.to_string()))?;
        events.survey_ends(&survey.links);
        let survey = Arc::new(survey);
        self.survey = Some(survey.clone());
        Ok(survey)
    }

    /// This host's WireGuard keys, if its lease publishes one: found once, and then kept.
    async fn learn_keys(&mut self, conf: &NetConf) -> Result<(), Failure> {
        if conf.backend.needs_key() && self.keys.is_none() {
            let options = self.options.clone();
            let load = move || wireguard_key::load(&options.wireguard_key_file).map_err(|error| error.to_string());
            self.keys = Some(off_thread(load).await.and_then(|keys| keys).map_err(Failure::Retry)?);
        }
        Ok(())
    }

    /// The subnet.env of the last run.
    async fn previous(&mut self) -> Previous {
        if let Some(previous) = &self.previous {
            return previous.clone();
        }
        let options = self.options.clone();
        let read = move || files::read_configured(&options.subnet_file, LARGEST_SUBNET_FILE);
        // A missing or unreadable file means that there was no last run.
        let text = off_thread(read).await.ok().and_then(Result::ok).unwrap_or_default();
        self.previous.insert(Previous::parse(&String::from_utf8_lossy(&text))).clone()
    }

    /// Announces that this host serves the network of `conf`, and returns the networks that other flannelds serve.
    /// `None`: it was announced before, and not refused.
    async fn claim(&mut self, conf: &NetConf) -> Result<Option<Vec<IpNetwork>>, Failure> {
        let networks = conf.networks();
        if self.claims.are(&networks) {
            return Ok(None);
        }
        let mut claims = std::mem::take(&mut self.claims);
        let claim = move || {
            let done = claims.claim(&networks).map_err(|error| format!("claim the network on this host: {error}"));
            let served = done.map(|()| claims::served());
            (claims, served)
        };
        let (claims, served) = off_thread(claim).await.map_err(Failure::Retry)?;
        self.claims = claims;
        served.map(Some).map_err(Failure::Retry)
    }

    /// Keeps the claim to the network of `gathered`, or gives it up.
    pub(super) fn settle_claim(&mut self, gathered: &Gathered, may: bool) {
        match may {
            true => self.claims.keep(gathered.conf.networks()),
            false => self.claims.give_up(),
        }
    }

    /// Updates what the kernel's announcements are compared with, if the survey or the choice has changed.
    pub(super) fn watch(
        &mut self,
        gathered: &Gathered,
        chosen: Chosen,
        devices: &[IfName],
        named: Named,
    ) -> Arc<facts::Facts> {
        let same = |watched: &&Watched| {
            Arc::ptr_eq(&watched.survey, &gathered.survey)
                && watched.chosen == chosen
                && watched.devices == devices
                && watched.named == named
        };
        if let Some(watched) = self.watched.as_ref().filter(same) {
            return watched.facts.clone();
        }
        let facts = Arc::new(facts::Facts::new(chosen.clone(), devices, named.clone(), &gathered.survey));
        let (survey, devices) = (gathered.survey.clone(), devices.to_vec());
        self.watched = Some(Watched { survey, chosen, devices, named, facts: facts.clone() });
        facts
    }

    /// Records the new contents of subnet.env.
    pub(super) fn wrote(&mut self, written: &SubnetEnv) {
        let (networks, subnets) = (written.networks.clone(), written.subnets);
        self.previous = Some(Previous { networks, subnets });
    }

    /// The facts for a plan, with this host's lease.
    pub(super) fn facts<'a>(
        &'a self,
        gathered: &'a Gathered,
        own: OwnLease<'a>,
        printed: Option<&'a str>,
    ) -> Facts<'a> {
        let [v4, v6] = [random(), random()].map(|number| {
            let [a, b, c, d, e, f, ..] = number.to_ne_bytes();
            [a, b, c, d, e, f]
        });
        Facts {
            now: tokio::time::Instant::now().into_std(),
            conf: &gathered.conf,
            survey: &gathered.survey,
            complete: self.health.complete,
            own: Own {
                subnets: own.subnets,
                published: own.published,
                previous: gathered.previous.subnets,
                former: &gathered.previous.networks,
                keys: self.keys,
                printed,
                random: ByFamily { v4, v6 },
            },
            endpoints: &self.endpoints,
            services: &self.services,
            served: gathered.served.as_deref(),
            options: &self.plan,
        }
    }
}

/// This host's lease, as the store has it.
#[derive(Clone, Copy)]
pub(super) struct OwnLease<'a> {
    pub(super) subnets: Option<Subnets>,
    pub(super) published: Option<&'a LeaseAttrs>,
}

/// Runs blocking work off the runtime's thread.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    store::thread::run(work).await.map_err(|error| error.to_string())
}

/// A random number from the kernel; it is not used for secrets.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    // On a machine without entropy two hosts may draw the same number; one of them then fails to create its key.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
}

fn survey(
    kernel: &mut Kernel,
    can_reach: Option<IpAddr>,
    select: &Select,
    families: &[Family],
) -> Result<Survey, KernelError> {
    // Links come first: an address is skipped if the name of its link is unknown.
    let links = kernel.links()?;
    let addresses = kernel.addresses()?;
    // There may be thousands of our own routes, and none of them leads to the underlay.
    let (routes, mut odd) = kernel.routes_but(TableId::MAIN, RouteProtocol::FLANNEL)?;
    let (local, more) = kernel.routes_but(TableId::LOCAL, RouteProtocol::KERNEL)?;
    odd.extend(local.into_iter().chain(more));
    let rules = kernel.rules()?;
    // No route is a valid answer.
    let reach = can_reach.and_then(|addr| kernel.route_to(addr).ok().flatten());
    let read = |path: &str| files::read_configured(Path::new(path), LARGEST_RESOLV_CONF).ok();
    let dns_servers = peers::dns_servers(read);
    let limits = neighbour_limits();
    let survey = Survey { links, addresses, routes, odd, rules, reach, limits, dns_servers, ..Survey::default() };
    match underlay::choose(select, families, &survey, None) {
        Ok((found, _)) => with_condition(kernel, survey, &found.underlay),
        Err(_) => Ok(survey),
    }
}

/// Adds what may keep the underlay from carrying packets.
fn with_condition(kernel: &mut Kernel, mut survey: Survey, underlay: &Underlay) -> Result<Survey, KernelError> {
    survey.neighbours = kernel.neighbours(&underlay.dev)?;
    for addr in [underlay.addresses.v4, underlay.addresses.v6].into_iter().flatten() {
        if !kernel.is_local(addr)? {
            survey.unheard.insert(addr);
        }
    }
    Ok(survey)
}

/// The limits of the neighbour tables. One that cannot be read cannot be raised.
fn neighbour_limits() -> Limits {
    let value = |path: String| sysctl::read(&path).ok().flatten()?.parse().ok();
    let of = |family| match limits::paths(family).map(value) {
        [Some(one), Some(two), Some(three)] => Some([one, two, three]),
        _ => None,
    };
    Limits { v4: of(::kernel::types::Family::V4), v6: of(::kernel::types::Family::V6) }
}
