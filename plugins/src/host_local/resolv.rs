//! Parses resolv.conf(5), as far as a CNI result can contain it.

use cni::result::Dns;

/// Skips comments and lines of fewer than two words; joins several lines of `search` and `options`.
pub(super) fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(keyword), Some(first)) = (words.next(), words.next()) else { continue };
        let all = std::iter::once(first).chain(words).map(str::to_owned);
        match keyword {
            "nameserver" => dns.nameservers.push(first.to_owned()),
            "domain" => first.clone_into(&mut dns.domain),
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            // including comments
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    #[test]
    fn takes_what_upstream_takes() {
        let text = "# nameserver 9.9.9.9\n; search no\nnameserver\nnameserver 10.0.0.10 ignored\n  nameserver fd00::10\n\
                    domain a.example b\nsearch x.example y.example\nsearch z.example\noptions ndots:5 edns0\nsortlist 1\n";
        let dns = super::parse(text);
        assert_eq!(dns.nameservers, ["10.0.0.10", "fd00::10"]);
        assert_eq!(dns.domain, "a.example");
        assert_eq!(dns.search, ["x.example", "y.example", "z.example"]);
        assert_eq!(dns.options, ["ndots:5", "edns0"]);
    }
}
