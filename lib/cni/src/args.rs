//! CNI_ARGS: `K=V;K2=V2`.

use crate::error::Error;
use crate::quote;

/// The values of those keys that a plugin knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    pairs: Vec<(String, String)>,
}

impl Args {
    /// Parses the text for a plugin that knows the keys `known` (case matters) besides `IgnoreUnknown`.
    ///
    /// Every piece between `;` must contain exactly one `=`. An unknown key is an error (code 999) unless
    /// `IgnoreUnknown` is `1` or `true`, which Kubernetes runtimes always set.
    ///
    /// # Example
    /// ```
    /// let args = cni::args::Args::parse("IgnoreUnknown=1;IP=10.22.0.9;K8S_POD_NAME=web", &["IP"])?;
    /// assert_eq!(args.get("IP"), Some("10.22.0.9"));
    /// # Ok::<(), cni::error::Error>(())
    /// ```
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Error> {
        let mut args = Self::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        if text.is_empty() {
            return Ok(args);
        }
        for pair in text.split(';') {
            match pair.split_once('=') {
                Some((_, value)) if value.contains('=') => return Err(invalid_pair(pair)),
                None => return Err(invalid_pair(pair)),
                Some(("IgnoreUnknown", value)) => ignore_unknown = boolean(pair, value)?,
                Some((key, value)) if known.contains(&key) => args.pairs.push((key.to_owned(), value.to_owned())),
                Some(_) => unknown.push(quote(pair)),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(Error::internal(format_args!("ARGS: unknown args [{}]", unknown.join(" "))));
        }
        Ok(args)
    }

    /// The last value of a known key. `None` if the text does not have it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

fn invalid_pair(pair: &str) -> Error {
    Error::internal(format_args!("ARGS: invalid pair {}", quote(pair)))
}

fn boolean(pair: &str, value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Error::internal(format_args!(
            "ARGS: error parsing value of pair {}: boolean unmarshal error: invalid input {value}",
            quote(pair)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(text: &str) -> String {
        let error = Args::parse(text, &["MAC", "IP"]).unwrap_err();
        assert_eq!(error.code, 999);
        error.msg
    }

    #[test]
    fn reads_known_pairs() {
        let args = Args::parse("MAC=a:b;IP=1;IP=2", &["MAC", "IP"]).unwrap();
        assert_eq!((args.get("MAC"), args.get("IP"), args.get("GATEWAY")), (Some("a:b"), Some("2"), None));
        assert_eq!(Args::parse("", &[]).unwrap(), Args::default());
    }

    #[test]
    fn refuses_other_grammar() {
        assert_eq!(fail("MAC=a;"), r#"ARGS: invalid pair """#);
        assert_eq!(fail("MAC"), r#"ARGS: invalid pair "MAC""#);
        assert_eq!(fail("MAC=a=b"), r#"ARGS: invalid pair "MAC=a=b""#);
        assert_eq!(fail("IgnoreUnknown=1;MAC=a=b"), r#"ARGS: invalid pair "MAC=a=b""#);
    }

    #[test]
    fn unknown_keys() {
        assert_eq!(fail("mac=a"), r#"ARGS: unknown args ["mac=a"]"#);
        assert_eq!(fail("X=1;Y=2;IgnoreUnknown=0"), r#"ARGS: unknown args ["X=1" "Y=2"]"#);
        for yes in ["1", "true", "True"] {
            assert_eq!(Args::parse(&format!("K8S_POD_NAME=x;IgnoreUnknown={yes}"), &["MAC"]).unwrap(), Args::default());
        }
        assert!(fail("IgnoreUnknown=yes").contains("invalid input yes"));
    }
}
