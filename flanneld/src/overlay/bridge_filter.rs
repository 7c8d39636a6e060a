//! Whether the kernel shows packets between two pods of one bridge to the packet rules of IP. Without that, a pod of a node that
//! reaches a Service by kube-proxy's rules, and is led to another pod of the same node, gets the answer from an address that it did
//! not ask: the answer stays on the bridge, where nothing translates it back.

use kernel::types::Family;

/// The parameter of a family (Documentation/networking/ip-sysctl.rst, bridge).
fn parameter(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/bridge/bridge-nf-call-iptables",
        Family::V6 => "net/bridge/bridge-nf-call-ip6tables",
    }
}

/// What an operator should change, for these families. `read` returns a parameter's value, `None` if the kernel does not have it.
pub(super) fn warnings(families: &[Family], read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let values: Vec<(&str, Option<String>)> =
        families.iter().map(|family| (parameter(*family), read(parameter(*family)))).collect();
    let harm = "pods that reach a Service may get no answer from a pod of their own node";
    if !values.is_empty() && values.iter().all(|(_, value)| value.is_none()) {
        return vec![format!(
            "the module br_netfilter is not loaded: {harm}: modprobe br_netfilter, and at each boot (modules-load.d)"
        )];
    }
    let off = values.iter().filter(|(_, value)| value.as_deref() != Some("1"));
    off.map(|(name, _)| name.replace('/', "."))
        .map(|name| format!("{name} is off: {harm}: sysctl -w {name}=1"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(families: &[Family], v4: Option<&str>, v6: Option<&str>) -> Vec<String> {
        warnings(families, &|name| {
            if name.ends_with("ip6tables") { v6.map(str::to_owned) } else { v4.map(str::to_owned) }
        })
    }

    #[test]
    fn a_bridge_that_hides_packets_is_named() {
        assert_eq!(of(&Family::ALL, Some("1"), Some("1")), Vec::<String>::new());
        assert_eq!(of(&[Family::V4], Some("1"), None), Vec::<String>::new());
        let [text] = &of(&Family::ALL, None, None)[..] else { panic!("one line for the module") };
        assert!(text.starts_with("the module br_netfilter is not loaded: "), "{text}");
        let [text] = &of(&Family::ALL, Some("1"), Some("0"))[..] else { panic!("one line") };
        assert!(text.ends_with(": sysctl -w net.bridge.bridge-nf-call-ip6tables=1"), "{text}");
        assert_eq!(of(&Family::ALL, Some("0"), Some("0")).len(), 2);
        assert_eq!(of(&[], None, None), Vec::<String>::new());
    }
}
