//! The network configuration on stdin: the fields that the protocol itself uses.

use gojson::{Json, JsonError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::env::is_identifier;
use crate::error::{Error, code};
use crate::result::AddResult;
use crate::version::Version;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Conf {
    /// `cniVersion`; absent means 0.1.0.
    pub version: Version,
    /// `name` of the network: letters, digits, `_`, `.`, `-`; safe as part of a path.
    pub name: String,
    /// `type`; empty if absent. Not checked: it may contain a path.
    pub kind: String,
    /// `prevResult`: the reply of the previous plugin or, for CHECK and DEL, of ADD.
    pub prev_result: Option<AddResult>,
    /// `cni.dev/valid-attachments` of GC. `None` if the key is absent or `null`: then GC must not remove anything. With
    /// an empty list no attachment is valid.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The document as it was read; delegates get it.
    pub bytes: Vec<u8>,
    tree: Json,
}

/// One container's interface on a network, as in GC's list.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// `containerID`
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `ifname`
    pub ifname: String,
}

impl Conf {
    /// Parses and checks a configuration of any known version. An invalid `prevResult` is an error here, whereas
    /// [`crate::plugin::serve`] accepts it for the commands that do not need it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let head = Head::read(bytes)?;
        let version = head.version.parse().map_err(Error::internal)?;
        let (conf, prev) = head.into_conf(version)?;
        prev?;
        Ok(conf)
    }

    /// Decodes the plugin's own fields by the rules of [`gojson`]. A member of the wrong type is an error of code 6.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.tree.decode().map_err(undecodable)
    }

    /// The whole document as a tree.
    pub fn tree(&self) -> &Json {
        &self.tree
    }
}

fn undecodable(cause: JsonError) -> Error {
    Error::new(code::DECODE, format!("error unmarshall network config: {cause}"))
}

/// The document before the version is negotiated.
pub(crate) struct Head {
    pub(crate) version: String,
    name: String,
    kind: String,
    prev_result: Json,
    valid_attachments: Option<Vec<Attachment>>,
    tree: Json,
    bytes: Vec<u8>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rest {
    #[serde(rename = "cniVersion")]
    version: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "prevResult")]
    prev_result: Json,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    // libcni 1.1 first used this key
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

impl Head {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let tree = Json::parse(bytes).map_err(undecodable)?;
        let Name { name } = tree.decode().map_err(undecodable)?;
        check_network_name(&name)?;
        let rest: Rest = tree.decode().map_err(undecodable)?;
        Ok(Self {
            version: rest.version,
            name,
            kind: rest.kind,
            prev_result: rest.prev_result,
            valid_attachments: rest.valid_attachments.or(rest.attachments),
            tree,
            bytes: bytes.to_owned(),
        })
    }

    /// The configuration, without its `prevResult` if that is invalid, and what is wrong with it.
    pub(crate) fn into_conf(self, version: Version) -> Result<(Conf, Result<(), Error>), Error> {
        let (prev_result, outcome) = match &self.prev_result {
            Json::Null => (None, Ok(())),
            tree => match AddResult::parse_prev(tree, version) {
                Ok(result) => (Some(result), Ok(())),
                Err(cause) => (None, Err(Error::internal(format_args!("could not parse prevResult: {cause}")))),
            },
        };
        let conf = Conf {
            version,
            name: self.name,
            kind: self.kind,
            prev_result,
            valid_attachments: self.valid_attachments,
            bytes: self.bytes,
            tree: self.tree,
        };
        Ok((conf, outcome))
    }
}

/// Checks a network's name, which becomes part of paths. An invalid one is an error of code 7.
pub fn check_network_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::config("missing network name"));
    }
    if !is_identifier(name) {
        return Err(Error::config("invalid characters found in network name").with_details(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fail(text: &str) -> Error {
        Conf::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn reads_what_the_protocol_needs() {
        let text = br#"{"CNIVERSION": "1.0.0", "Name": "net", "type": "bridge", "mtu": 9,
            "prevResult": {"ips": [{"address": "10.0.0.2/24"}]}}"#;
        let conf = Conf::parse(text).unwrap();
        assert_eq!((conf.version, conf.name.as_str(), conf.kind.as_str()), (Version::V100, "net", "bridge"));
        assert_eq!(conf.prev_result.as_ref().unwrap().ips[0].address.to_string(), "10.0.0.2/24");
        assert_eq!((conf.valid_attachments.as_ref(), conf.bytes.as_slice()), (None, text.as_slice()));
        assert_eq!(Conf::parse(br#"{"name": "n"}"#).unwrap().version, Version::V010);
        assert_eq!(Conf::parse(br#"{"name": "n", "cniVersion": "", "prevResult": null}"#).unwrap().prev_result, None);
    }

    #[test]
    fn messages_and_codes() {
        assert_eq!(fail(""), Error::new(6, "error unmarshall network config: unexpected end of JSON input"));
        assert!(fail("{").msg.starts_with("error unmarshall network config: "));
        assert_eq!(fail("[]").code, 6);
        assert_eq!(fail(r#"{"name": 5}"#).code, 6);
        assert_eq!(fail("{}"), Error::new(7, "missing network name"));
        assert_eq!(fail("null"), Error::new(7, "missing network name"));
        assert_eq!(
            fail(r#"{"name": "../x"}"#),
            Error::new(7, "invalid characters found in network name").with_details("../x")
        );
    }

    #[test]
    fn fields_of_the_plugin() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Own {
            mtu: u32,
        }
        let conf = Conf::parse(br#"{"name": "n", "MTU": 1400}"#).unwrap();
        assert_eq!(conf.decode::<Own>().unwrap().mtu, 1400);
        let error = Conf::parse(br#"{"name": "n", "mtu": "1"}"#).unwrap().decode::<Own>().unwrap_err();
        assert_eq!(error.code, 6);
        assert!(error.msg.contains("mtu: invalid type: string"), "{error}");
    }

    #[test]
    fn prev_result_must_share_the_shape() {
        let with = |config: &str, prev: &str| {
            Conf::parse(format!(r#"{{"name":"n","cniVersion":"{config}","prevResult":{{{prev}}}}}"#).as_bytes())
        };
        for (config, prev) in [("1.1.0", "1.0.0"), ("1.0.0", "1.1.0"), ("0.4.0", "0.3.0"), ("0.1.0", "0.2.0")] {
            with(config, &format!(r#""cniVersion":"{prev}""#)).unwrap();
        }
        for config in ["", "0.2.0", "0.3.1", "1.1.0"] {
            with(config, "").unwrap();
            with(config, r#""cniVersion":"""#).unwrap();
        }
        assert_eq!(
            with("1.1.0", r#""cniVersion":"0.4.0""#).unwrap_err(),
            Error::internal(
                r#"could not parse prevResult: result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is "0.4.0""#
            )
        );
        assert!(with("0.4.0", r#""cniVersion":"1.0.0""#).unwrap_err().msg.contains("[0.3.0 0.3.1 0.4.0]"));
        assert!(with("1.0.0", r#""ips":{}"#).unwrap_err().msg.starts_with("could not parse prevResult: ips: "));
        assert!(with("1.0.0", r#""ips":[{}]"#).unwrap_err().msg.ends_with("ips[0] has no address"));
    }

    #[test]
    fn absent_attachments_are_not_empty_ones() {
        let read = |text: &str| Conf::parse(format!(r#"{{"name":"n"{text}}}"#).as_bytes()).unwrap().valid_attachments;
        let one = vec![Attachment { container_id: "c".into(), ifname: "e".into() }];
        assert_eq!(read(""), None);
        assert_eq!(read(r#","cni.dev/valid-attachments":null"#), None);
        assert_eq!(read(r#","cni.dev/valid-attachments":[]"#), Some(vec![]));
        assert_eq!(read(r#","cni.dev/attachments":[]"#), Some(vec![]));
        assert_eq!(read(r#","cni.dev/attachments":[{"containerID":"c","ifname":"e"}]"#), Some(one.clone()));
        let both = r#","cni.dev/attachments":[],"cni.dev/valid-attachments":[{"containerid":"c","ifName":"e"}]"#;
        assert_eq!(read(both), Some(one));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Conf::parse(&bytes);
        }
    }
}
