//! The firewall plugin's configuration, before and after the check.

use attachment::rules::firewall::{ADMIN, Backend, IngressPolicy};
use cni::error::Error;
use serde::Deserialize;

use crate::attach::fields::note;

/// firewalld's zone of everything that is accepted; upstream's default.
const ZONE: &str = "trusted";
/// The longest chain name in bytes: XT_EXTENSION_MAXNAMELEN (linux/netfilter/x_tables.h) minus the terminating zero.
const LONGEST: usize = 28;

/// The plugin's own fields of the document, in upstream's spelling.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Document {
    backend: String,
    iptables_admin_chain_name: String,
    firewalld_zone: String,
    ingress_policy: String,
}

/// The checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// What writes the rules.
    pub backend: Backend,
    /// The chain of an administrator's own rules.
    pub admin: String,
    /// firewalld's zone.
    pub zone: String,
    /// Which packets of other pods reach the pod.
    pub policy: IngressPolicy,
}

impl Document {
    /// Checks the configuration, and reports all mistakes in one error.
    pub fn check(self) -> Result<Conf, Error> {
        let mut mistakes = Vec::new();
        let backend = note(&mut mistakes, backend(&self.backend));
        let policy = note(&mut mistakes, policy(&self.ingress_policy));
        let admin = note(&mut mistakes, admin(or(self.iptables_admin_chain_name, ADMIN)));
        let zone = note(&mut mistakes, zone(or(self.firewalld_zone, ZONE)));
        let (Some(backend), Some(policy), Some(admin), Some(zone)) = (backend, policy, admin, zone) else {
            return Err(Error::config(mistakes.join("; ")));
        };
        Ok(Conf { backend, admin, zone, policy })
    }
}

/// The zone of a configuration that may have mistakes, for DEL.
pub fn any_zone(document: Option<Document>) -> String {
    or(document.map(|document| document.firewalld_zone).unwrap_or_default(), ZONE)
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

fn backend(name: &str) -> Result<Backend, String> {
    match name {
        "" | "nftables" => Ok(Backend::Nftables),
        "iptables" => Ok(Backend::Iptables),
        "firewalld" => Ok(Backend::Firewalld),
        other => {
            Err(format!("unknown firewall backend {other:?} (must be \"nftables\", \"iptables\" or \"firewalld\")"))
        }
    }
}

fn policy(name: &str) -> Result<IngressPolicy, String> {
    match name {
        "" | "open" => Ok(IngressPolicy::Open),
        "same-bridge" => Ok(IngressPolicy::SameBridge),
        "isolated" => Ok(IngressPolicy::Isolated),
        other => Err(format!("unknown ingress policy: {other:?} (must be \"open\", \"same-bridge\" or \"isolated\")")),
    }
}

/// What iptables accepts as the name of a chain (`assert_valid_chain_name`, iptables/xshared.c), and none of its own or of this
/// plugin's chains.
fn admin(name: String) -> Result<String, String> {
    let taken = ["INPUT", "FORWARD", "OUTPUT", "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"];
    let why = match () {
        () if name.len() > LONGEST => format!("must not be longer than {LONGEST} bytes"),
        () if name.starts_with(['-', '!']) => "must not start with - or !".to_owned(),
        () if name.contains(|c: char| !c.is_ascii_graphic() || "\"\\'".contains(c)) => {
            "must be of printable ASCII characters, without quotes and spaces".to_owned()
        }
        () if taken.contains(&&*name) => "is the name of a chain with another purpose".to_owned(),
        () => return Ok(name),
    };
    Err(format!("iptablesAdminChainName: {name:?} {why}"))
}

fn zone(name: String) -> Result<String, String> {
    let valid = name.chars().all(|c| c.is_alphanumeric() || "_-/".contains(c));
    if valid { Ok(name) } else { Err(format!("firewalldZone: {name:?} is not the name of a zone")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: &str) -> Result<Conf, String> {
        gojson::decode::<Document>(document.as_bytes()).unwrap().check().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_upstreams_but_for_the_backend() {
        let conf = check("{}").unwrap();
        let expected = (Backend::Nftables, "CNI-ADMIN", "trusted", IngressPolicy::Open);
        assert_eq!((conf.backend, &*conf.admin, &*conf.zone, conf.policy), expected);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let error = check(
            r#"{ "backend": "ipfw", "ingressPolicy": "closed", "iptablesAdminChainName": "a b", "firewalldZone": "a b" }"#,
        )
        .unwrap_err();
        for part in ["\"ipfw\"", "\"closed\"", "iptablesAdminChainName: \"a b\"", "firewalldZone: \"a b\""] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        for name in ["-x", "!x", "FORWARD", "CNI-FORWARD", &"a".repeat(29), "a\\u0001"] {
            let text = format!(r#"{{ "iptablesAdminChainName": "{name}" }}"#);
            assert!(check(&text).unwrap_err().contains("iptablesAdminChainName"), "{name}");
        }
        assert!(check(&format!(r#"{{ "iptablesAdminChainName": "{}" }}"#, "a".repeat(28))).is_ok());
    }
}
