//! The network's configuration as the daemon follows it: what the store says now, and the last that was good.

use std::sync::Arc;

use overlay::netconf::NetConf;

/// The configuration in force.
#[derive(Debug)]
pub struct Config {
    absent: &'static str,
    seen: Option<Option<Arc<[u8]>>>,
    good: Option<Arc<NetConf>>,
    error: Option<String>,
}

impl Config {
    /// Nothing is known yet. `absent` is said when the store has none.
    pub fn new(absent: &'static str) -> Self {
        Self { absent, seen: None, good: None, error: None }
    }

    /// Takes what the store says; true when that changed what is in force. A configuration that is gone or cannot be
    /// used changes nothing: a typing mistake must not take a network down.
    pub fn take(&mut self, text: Option<&Arc<[u8]>>) -> bool {
        if self.seen.as_ref().map(Option::as_ref) == Some(text) {
            return false;
        }
        self.seen = Some(text.cloned());
        let new = match text.map(|text| NetConf::parse(text)) {
            None => Err(self.absent.to_owned()),
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

    /// What is wrong with the store's.
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
