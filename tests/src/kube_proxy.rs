//! kube-proxy's rule sets: small ones of the form that it gives them (Kubernetes 1.33, pkg/proxy/iptables,
//! pkg/proxy/nftables), with one service that has a cluster IP, a node port and one endpoint.

/// A mode of kube-proxy: how its rules are loaded and listed.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// The command that reads the rules from its standard input.
    pub load: &'static str,
    /// The command that lists them.
    pub list: &'static str,
    rules: &'static str,
}

impl Mode {
    /// The rules for a service with this endpoint on this host.
    pub fn rules(self, pods: &str, host: &str, endpoint: &str) -> String {
        self.rules.replace("ENDPOINT", endpoint).replace("PODS", pods).replace("HOST", host)
    }
}

/// The mode `iptables`.
pub const IPTABLES: Mode =
    Mode { load: "iptables-restore --noflush", list: "iptables -t nat -S", rules: IPTABLES_RULES };
/// The mode `nftables`.
pub const NFTABLES: Mode = Mode { load: "nft -f -", list: "nft list table ip kube-proxy", rules: NFTABLES_RULES };

/// The service's cluster IP and port.
pub const SERVICE: (&str, u16) = ("10.96.0.10", 8080);
/// Its node port.
pub const NODE_PORT: u16 = 30080;

/// kube-proxy in mode `iptables`; ENDPOINT is the pod's address, HOST the host's, and PODS the network of all pods.
const IPTABLES_RULES: &str = r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-EXT-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/two:http cluster IP" -m tcp --dport 8080 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/two:http" -m tcp --dport 30080 -j KUBE-EXT-AAAAAAAAAAAAAAAA
-A KUBE-EXT-AAAAAAAAAAAAAAAA -m comment --comment "masquerade traffic for default/two:http external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SVC-AAAAAAAAAAAAAAAA ! -s PODS -d 10.96.0.10/32 -p tcp -m comment --comment "default/two:http cluster IP" -m tcp --dport 8080 -j KUBE-MARK-MASQ
-A KUBE-SVC-AAAAAAAAAAAAAAAA -m comment --comment "default/two:http -> ENDPOINT:80" -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s ENDPOINT/32 -m comment --comment "default/two:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m comment --comment "default/two:http" -m tcp -j DNAT --to-destination ENDPOINT:80
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
COMMIT
"#;

/// The same in mode `nftables`.
const NFTABLES_RULES: &str = r#"table ip kube-proxy {
    set nodeport-ips { type ipv4_addr; elements = { HOST }; }
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.10 . tcp . 8080 : goto service-AAAAAAAA-default/two/tcp/http }
    }
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 30080 : goto external-AAAAAAAA-default/two/tcp/http }
    }
    chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain endpoint-BBBBBBBB-default/two/tcp/http__ENDPOINT/80 {
        ip saddr ENDPOINT jump mark-for-masquerade
        meta l4proto tcp dnat to ENDPOINT:80
    }
    chain service-AAAAAAAA-default/two/tcp/http {
        ip daddr 10.96.0.10 tcp dport 8080 ip saddr != PODS jump mark-for-masquerade
        numgen random mod 1 vmap { 0 : goto endpoint-BBBBBBBB-default/two/tcp/http__ENDPOINT/80 }
    }
    chain external-AAAAAAAA-default/two/tcp/http {
        jump mark-for-masquerade
        goto service-AAAAAAAA-default/two/tcp/http
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
"#;
