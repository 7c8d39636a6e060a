//! Upstream's layout: `<prefix>/config` and `<prefix>/subnets/<lease>`.

/// The keys below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// What a key is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The network's configuration.
    Config,
    /// A lease, with this name.
    Lease(&'a [u8]),
    /// A key that flannel does not use.
    Elsewhere,
}

impl Keys {
    /// Takes the prefix as given: a `/` at its end is ignored, one at its beginning is part of every key.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// The range of all keys below the prefix: the first key, and the one after the last.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        below(&self.prefix)
    }

    /// The range of all leases: the first key, and the one after the last.
    pub(super) fn leases(&self) -> (Vec<u8>, Vec<u8>) {
        below(&format!("{}/subnets", self.prefix))
    }

    /// The network's configuration.
    pub(super) fn config(&self) -> String {
        format!("{}/config", self.prefix)
    }

    pub(super) fn lease(&self, name: &str) -> Vec<u8> {
        format!("{}/subnets/{name}", self.prefix).into_bytes()
    }

    pub(super) fn place<'a>(&self, key: &'a [u8]) -> Place<'a> {
        let rest = key.strip_prefix(self.prefix.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        match rest {
            Some(b"config") => Place::Config,
            Some(rest) => rest.strip_prefix(b"subnets/").map_or(Place::Elsewhere, Place::Lease),
            None => Place::Elsewhere,
        }
    }
}

/// `0` is the character after `/`.
fn below(folder: &str) -> (Vec<u8>, Vec<u8>) {
    (format!("{folder}/").into_bytes(), format!("{folder}0").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_upstreams_byte_for_byte() {
        let keys = Keys::new("/coreos.com/network");
        let config = keys.config().into_bytes();
        assert_eq!(config, b"/coreos.com/network/config");
        assert_eq!(keys.place(&config), Place::Config);
        for name in ["10.5.1.0-24", "10.5.1.0-24&fd05:0:0:65::-64", "0.0.0.0-0&fd05:0:0:65::-64"] {
            let key = keys.lease(name);
            assert_eq!(key, format!("/coreos.com/network/subnets/{name}").as_bytes());
            assert_eq!(keys.place(&key), Place::Lease(name.as_bytes()));
            let (first, after) = keys.all();
            assert!(first <= key && key < after && first <= config && config < after);
            let (first, after) = keys.leases();
            assert!(first <= key && key < after && config < first);
        }
        assert_eq!(Keys::new("rel/").lease("x"), b"rel/subnets/x");
    }

    #[test]
    fn what_only_shares_the_text_is_elsewhere() {
        let keys = Keys::new("/n");
        for key in ["/n/subnets-x/10.5.1.0-24", "/n/subnets", "/nn/config", "/n", "/n/config/x", "/n/other", "n/config"]
        {
            assert_eq!(keys.place(key.as_bytes()), Place::Elsewhere, "{key}");
            let (first, after) = keys.leases();
            assert!(!(first.as_slice()..after.as_slice()).contains(&key.as_bytes()), "{key}");
        }
        assert_eq!(keys.place(b"/n/subnets/"), Place::Lease(b""));
        assert_eq!(keys.place(b"/n/subnets/a/b"), Place::Lease(b"a/b"));
    }
}
