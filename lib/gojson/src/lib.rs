//! JSON as Go's `encoding/json` reads and writes it, because all configurations, leases and results were written for
//! that library. The grammar is serde_json's. The differences from serde_json are:
//!
//! - Keys match in any case, and the last of equal keys wins.
//! - `null` leaves the default value.
//! - `1500.0` is not an integer.
//! - Invalid UTF-8 and unpaired surrogates become U+FFFD.
//! - `<`, `>` and `&` are written as `\u003c`, `\u003e` and `\u0026`, and floats have Go's format.
//!
//! Two differences from Go are deliberate. A repeated key replaces an object, where Go merges the two. A whole number
//! in a [`Json`] keeps 64 bits, where Go's `any` keeps 53.
//!
//! There are two ways to read a tree. [`Json::decode`] fills a struct and stops at the first mistake:
//!
//! ```
//! #[derive(serde::Deserialize, Default)]
//! #[serde(default)]
//! struct Conf { mtu: u32, ipam: gojson::Json }
//! let conf: Conf = gojson::decode(br#"{"MTU": 1400, "mtu": null, "ipam": {"type": "x"}}"#).unwrap();
//! assert_eq!(conf.mtu, 1400);
//! assert_eq!(conf.ipam.compact(), r#"{"type":"x"}"#);
//! ```
//!
//! A [`Reader`] takes the fields of an object one by one, and collects every mistake and every unknown key:
//!
//! ```
//! let tree = gojson::Json::parse(br#"{"port": "8472", "mtu": 1500.0, "prot": 4789}"#).unwrap();
//! let mut reader = gojson::Reader::new("Backend", &tree).unwrap();
//! let (port, mtu) = (reader.take::<u64>("Port"), reader.take::<u64>("MTU"));
//! assert_eq!((port, mtu), (None, None));
//! let (wrong, rest) = reader.finish();
//! assert_eq!(wrong[0].to_string(), r#"Backend.Port must be a whole number that is not negative, not "8472""#);
//! assert_eq!(wrong[1].to_string(), "Backend.MTU must be a whole number that is not negative, not 1500.0");
//! assert_eq!(rest.unknown, ["Backend.prot"]);
//! ```

mod decode;
mod encode;
mod net;
mod parse;
mod reader;
#[cfg(test)]
mod tests;
mod tree;

pub use net::{Cidr, Ip, parse_cidr, parse_ip};
pub use parse::{JsonError, MAX_DEPTH, decode};
pub use reader::{Field, Leftovers, Reader, Wrong};
pub use tree::{Json, same_key};
