//! The result's text in each version: shape and order of keys are the Go library's, byte for byte (specification
//! §"Success").

use std::net::IpAddr;

use gojson::Json;
use ipnetwork::IpNetwork;

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::error::Error;
use crate::version::Version;

/// An object under construction. It omits empty members.
#[derive(Default)]
struct Members(Vec<(&'static str, Json)>);

impl Members {
    fn put(&mut self, key: &'static str, value: impl Into<Json>) {
        self.0.push((key, value.into()));
    }

    fn text(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            self.put(key, value);
        }
    }

    fn number(&mut self, key: &'static str, value: u32) {
        if value != 0 {
            self.put(key, value);
        }
    }

    fn list(&mut self, key: &'static str, values: Vec<Json>) {
        if !values.is_empty() {
            self.put(key, values);
        }
    }

    fn ip(&mut self, key: &'static str, ip: Option<IpAddr>) {
        if let Some(ip) = ip {
            self.put(key, ip.to_canonical().to_string());
        }
    }

    fn done(self) -> Json {
        self.0.into_iter().collect()
    }
}

impl AddResult {
    /// The result as a plugin prints it for a configuration of that version: indented by 4 spaces, no final newline.
    ///
    /// 0.1.0 and 0.2.0 keep only the first address of each family. They fail if there is none: `cannot convert: no
    /// valid IP addresses`.
    pub fn encode(&self, version: Version) -> Result<String, Error> {
        Ok(self.to_json(version)?.pretty4())
    }

    /// The result as a tree, for a `prevResult`. It fails as [`AddResult::encode`] does.
    pub fn to_json(&self, version: Version) -> Result<Json, Error> {
        match version {
            Version::V010 | Version::V020 => self.to_02(version),
            Version::V030 | Version::V031 | Version::V040 => Ok(self.to_04(version)),
            // the Go library passes these through a map, which sorts the keys
            Version::V100 | Version::V110 => Ok(self.to_1(version).sorted()),
        }
    }

    fn to_1(&self, version: Version) -> Json {
        let mut out = Members::default();
        out.put("cniVersion", version.as_str());
        out.list("interfaces", self.interfaces.iter().map(interface_1).collect());
        out.list("ips", self.ips.iter().map(|ip| ip_config(ip, false)).collect());
        out.list("routes", self.routes.iter().map(route).collect());
        if !self.dns.is_empty() {
            out.put("dns", dns(&self.dns));
        }
        out.done()
    }

    fn to_04(&self, version: Version) -> Json {
        let mut out = Members::default();
        out.put("cniVersion", version.as_str());
        out.list("interfaces", self.interfaces.iter().map(|i| interface_04(i).done()).collect());
        out.list("ips", self.ips.iter().map(|ip| ip_config(ip, true)).collect());
        out.list("routes", self.routes.iter().map(route).collect());
        out.put("dns", dns(&self.dns));
        out.done()
    }

    fn to_02(&self, version: Version) -> Result<Json, Error> {
        let mut out = Members::default();
        out.put("cniVersion", version.as_str());
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(first) = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4) else { continue };
            let mut family = Members::default();
            family.put("ip", first.address.to_string());
            family.ip("gateway", first.gateway);
            let routes = self.routes.iter().filter(|r| r.dst.is_ipv4() == v4);
            family.list("routes", routes.map(|r| destination(r.dst, r.gw).done()).collect());
            out.put(key, family.done());
        }
        if out.0.len() == 1 {
            return Err(Error::internal("cannot convert: no valid IP addresses"));
        }
        out.put("dns", dns(&self.dns));
        Ok(out.done())
    }
}

fn interface_04(interface: &Interface) -> Members {
    let mut out = Members::default();
    out.put("name", interface.name.as_str());
    out.text("mac", &interface.mac);
    out.text("sandbox", &interface.sandbox);
    out
}

fn interface_1(interface: &Interface) -> Json {
    let mut out = interface_04(interface);
    out.number("mtu", interface.mtu);
    out.text("socketPath", &interface.socket_path);
    out.text("pciID", &interface.pci_id);
    out.done()
}

fn ip_config(ip: &IpConfig, with_version: bool) -> Json {
    let mut out = Members::default();
    if with_version {
        out.put("version", if ip.address.is_ipv4() { "4" } else { "6" });
    }
    if let Some(index) = ip.interface {
        out.put("interface", index);
    }
    out.put("address", ip.address.to_string());
    out.ip("gateway", ip.gateway);
    out.done()
}

fn destination(dst: IpNetwork, gw: Option<IpAddr>) -> Members {
    let mut out = Members::default();
    out.put("dst", dst.to_string());
    out.ip("gw", gw);
    out
}

fn route(route: &Route) -> Json {
    let mut out = destination(route.dst, route.gw);
    out.number("mtu", route.mtu);
    out.number("advmss", route.advmss);
    out.number("priority", route.priority);
    if let Some(table) = route.table {
        out.put("table", table);
    }
    if let Some(scope) = route.scope {
        out.put("scope", u32::from(scope));
    }
    out.done()
}

fn dns(dns: &Dns) -> Json {
    let texts = |list: &[String]| list.iter().map(|t| Json::from(t.as_str())).collect::<Vec<_>>();
    let mut out = Members::default();
    out.list("nameservers", texts(&dns.nameservers));
    out.text("domain", &dns.domain);
    out.list("search", texts(&dns.search));
    out.list("options", texts(&dns.options));
    out.done()
}
