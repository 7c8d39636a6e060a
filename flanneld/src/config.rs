//! The network configuration: the one in the store, and the last valid one, which is in force.

use std::sync::Arc;

use overlay::netconf::NetConf;

/// The configuration in force.
#[derive(Debug)]
pub struct Config {
    absent: String,
    seen: Option<Option<Arc<[u8]>>>,
    good: Option<Arc<NetConf>>,
    error: Option<String>,
}

impl Config {
    /// No configuration yet. `absent` is the error while the store has none.
    pub fn new(absent: &str) -> Self {
        Self { absent: absent.to_owned(), seen: None, good: None, error: None }
    }

    /// Takes the store's configuration. Returns true if the one in force changes. A missing or invalid configuration
    /// changes nothing: a typing mistake must not take down a network.
    pub fn take(&mut self, text: Option<&Arc<[u8]>>) -> bool {
        if self.seen.as_ref().map(Option::as_ref) == Some(text) {
            return false;
        }
        self.seen = Some(text.cloned());
        let new = match text.map(|text| NetConf::parse(text)) {
            None => Err(self.absent.clone()),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(parsed)) => {
                parsed.warnings.iter().for_each(|warning| tracing::warn!(%warning, "network config"));
                Ok(parsed.conf)
            }
        };
        match new {
            Ok(conf) => {
                self.error = None;
                let changed = self.good.as_deref() != Some(&conf);
                self.good = Some(Arc::new(conf));
                changed
            }
            Err(error) => {
                let kept = if self.good.is_some() { "; the last good one stays in force" } else { "" };
                self.error = Some(format!("{error}{kept}"));
                false
            }
        }
    }

    /// The configuration in force.
    pub fn good(&self) -> Option<&Arc<NetConf>> {
        self.good.as_ref()
    }

    /// What is wrong with the configuration in the store.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Arc<[u8]>> {
        Some(text.as_bytes().into())
    }

    #[test]
    fn the_last_good_one_stays() {
        let mut config = Config::new("not found");
        assert!(!config.take(None));
        assert!(config.good().is_none() && config.error().unwrap().contains("not found"));
        let vxlan = text(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
        assert!(config.take(vxlan.as_ref()));
        assert!(!config.take(vxlan.as_ref()), "the same again");
        assert_eq!(config.error(), None);
        let same = text(r#"{ "Network": "10.5.0.0/16", "Backend": {"Type": "VXLAN"} }"#);
        assert!(!config.take(same.as_ref()), "other words, same meaning");
        for bad in
            [text(""), text("{"), text(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"x"}}"#), None]
        {
            assert!(!config.take(bad.as_ref()));
            assert!(config.error().unwrap().contains("the last good one stays"), "{:?}", config.error());
            assert_eq!(config.good().unwrap().backend.name(), "vxlan");
        }
        assert!(config.take(text(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#).as_ref()));
        assert_eq!(config.error(), None);
    }
}
