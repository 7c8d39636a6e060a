//! Targets: the configurations of plugins, as a runtime gives them.

use cni::conf::Conf;
use cni::delegate::{Delegates, Environ};
use cni::env::Env;
use cni::error::Error;
use cni::plugin::Request;
use plugins::attach::{Interface, Ipam};
use plugins::bridge::Bridge;
use plugins::macvlan::Macvlan;
use plugins::ptp::Ptp;
use plugins::static_ipam::Static;

use super::owned;

/// A configuration is accepted, or refused with a text. What static accepts is its result in every version that can
/// express it.
pub fn plugin(bytes: &[u8]) {
    let Ok(conf) = Conf::parse(bytes) else { return };
    let env = Env { ifname: "eth0".into(), container_id: "c".into(), ..Env::default() };
    let delegates = Delegates::new("", &[], Environ::Exactly(Vec::new()), &|_| {});
    let request = Request { env: &env, conf, delegates: &delegates };
    explained(Bridge.load(&request).err());
    explained(Macvlan.load(&request).err());
    explained(Ptp.load(&request).err());
    let given = Static.load(&request).and_then(|conf| Static.reserve(&conf, &request));
    if let Ok(result) = &given {
        super::protocol::encoded(result);
    }
    explained(given.err());
}

fn explained(error: Option<Error>) {
    assert!(error.is_none_or(|error| [6, 7, 999].contains(&error.code) && !error.msg.is_empty()));
}

pub fn plugin_seeds() -> Vec<Vec<u8>> {
    let mut seeds = owned(&[
        r#"{"name":"n","type":"ptp","ipMasq":true,"ipMasqBackend":"nftables","ipMasqExclude":["10.0.0.0/8"],"mtu":1400,"ipam":{"type":"host-local"},"dns":{"search":["a"]}}"#,
        r#"{"name":"n","type":"macvlan","master":"eth0","mode":"vepa","mtu":1400,"bcqueuelen":9,"linkInContainer":true,"mac":"02:00:00:00:00:01"}"#,
        r#"{"name":"n","type":"bridge","vlan":5,"vlanTrunk":[{"id":3},{"minID":7,"maxID":9}],"macspoofchk":true,"ipam":{}}"#,
        r#"{"cniVersion":"1.1.0","name":"n","type":"x","ipam":{"type":"static","addresses":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"fd00::3/64"}],"routes":[{"dst":"0.0.0.0/0","mtu":1300,"table":7}]},"runtimeConfig":{"ips":["10.1.2.4/24"]},"args":{"cni":{"ips":["10.1.2.5/24"]}}}"#,
    ]);
    seeds.extend(super::protocol::conf_seeds());
    seeds
}
