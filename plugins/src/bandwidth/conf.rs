//! The bandwidth plugin's configuration.

use attachment::bandwidth::Limit;
use cni::error::Error;
use gojson::{Json, Reader};

/// The checked configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conf {
    /// The limit of what the pod receives.
    pub ingress: Option<Limit>,
    /// The limit of what the pod sends.
    pub egress: Option<Limit>,
}

const KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// Bits. Upstream's limit: the number of bytes must be less than 2³² − 1.
const LARGEST_BURST: u64 = 8 * (u32::MAX as u64);

impl Conf {
    /// Whether nothing is limited.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Reads the fields of the document, or of `runtimeConfig.bandwidth` if the document itself has none of them. Reports
    /// all mistakes in one error.
    pub fn read(document: &Json) -> Result<Self, Error> {
        let mut mistakes = Vec::new();
        let own = Self::fields("", document, &mut mistakes);
        let nested = document.get("runtimeConfig").unwrap_or(&Json::Null);
        let runtime = Self::runtime(nested, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Error::config(mistakes.join("; ")));
        }
        Ok(if KEYS.iter().any(|key| document.has(key)) { own } else { runtime })
    }

    fn runtime(value: &Json, mistakes: &mut Vec<String>) -> Self {
        if let Err(wrong) = Reader::new("runtimeConfig", value) {
            mistakes.push(wrong.to_string());
        }
        match value.get("bandwidth") {
            Some(bandwidth) => Self::fields("runtimeConfig.bandwidth", bandwidth, mistakes),
            None => Self::default(),
        }
    }

    fn fields(path: &'static str, value: &Json, mistakes: &mut Vec<String>) -> Self {
        let mut reader = match Reader::new(path, value) {
            Ok(reader) => reader,
            Err(wrong) => {
                mistakes.push(wrong.to_string());
                return Self::default();
            }
        };
        let ingress = limit(&mut reader, "ingressRate", "ingressBurst");
        let egress = limit(&mut reader, "egressRate", "egressBurst");
        let (wrong, _) = reader.finish();
        mistakes.extend(wrong.iter().map(ToString::to_string));
        Self { ingress, egress }
    }
}

/// Both fields, or neither; 0 counts as absent.
fn limit(reader: &mut Reader<'_>, rate_field: &str, burst_field: &str) -> Option<Limit> {
    let [rate, burst] = [rate_field, burst_field].map(|field| reader.take::<u64>(field).unwrap_or_default());
    if rate == 0 && burst != 0 {
        reader.wrong(rate_field, "is missing: if burst is set, rate must also be set");
    }
    if burst == 0 && rate != 0 {
        reader.wrong(burst_field, "is missing: if rate is set, burst must also be set");
    }
    if (1..8).contains(&rate) {
        reader.wrong(rate_field, "must be at least 8 bits per second");
    }
    if (1..8).contains(&burst) {
        reader.wrong(burst_field, "must be at least 8 bits");
    }
    if burst >= LARGEST_BURST {
        reader.wrong(burst_field, "burst cannot be more than 4GB");
    }
    if rate >= 8 && burst >= 8 && u128::from(burst) * 1_000_000 < u128::from(rate) {
        reader.wrong(
            burst_field,
            format_args!("must be at least what passes in a microsecond: {} bits", rate / 1_000_000 + 1),
        );
    }
    (rate != 0).then_some(Limit { rate, burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Conf, String> {
        Conf::read(&Json::parse(text.as_bytes()).unwrap()).map_err(|error| {
            assert_eq!(error.code, 7);
            error.to_string()
        })
    }

    fn limit(rate: u64, burst: u64) -> Option<Limit> {
        Some(Limit { rate, burst })
    }

    #[test]
    fn the_document_comes_before_the_runtime() {
        let runtime = r#""runtimeConfig": {"bandwidth": {"ingressRate": 8, "ingressBurst": 16, "egressRate": 24, "egressBurst": 32}}"#;
        assert_eq!(read(&format!("{{{runtime}}}")), Ok(Conf { ingress: limit(8, 16), egress: limit(24, 32) }));
        assert_eq!(
            read(&format!(r#"{{"egressRate": 80, "EGRESSBURST": 88, {runtime}}}"#)),
            Ok(Conf { ingress: None, egress: limit(80, 88) })
        );
        // upstream: a field that is there, whatever its value
        assert_eq!(read(&format!(r#"{{"egressRate": 0, {runtime}}}"#)), Ok(Conf::default()));
        assert_eq!(read(&format!(r#"{{"egressRate": null, {runtime}}}"#)), Ok(Conf::default()));
    }

    #[test]
    fn nothing_is_no_limit() {
        for text in [
            "{}",
            r#"{"runtimeConfig": null}"#,
            r#"{"runtimeConfig": {}}"#,
            r#"{"runtimeConfig": {"bandwidth": null}}"#,
            r#"{"ingressRate": 0, "ingressBurst": 0}"#,
        ] {
            assert_eq!(read(text), Ok(Conf::default()), "{text}");
        }
    }

    #[test]
    fn limits_reach_their_limits() {
        let largest = LARGEST_BURST - 1;
        for (rate, burst) in [(8, 8), (8, largest), (u64::MAX, largest), (1_000_000_000_000, 1_000_000)] {
            let fits = u128::from(burst) * 1_000_000 >= u128::from(rate);
            let conf = read(&format!(r#"{{"ingressRate": {rate}, "ingressBurst": {burst}}}"#));
            assert_eq!(conf.is_ok(), fits, "{conf:?}");
        }
        // the last of equal keys counts
        assert_eq!(read(r#"{"ingressRate": 9, "ingressRate": 8, "ingressBurst": 8}"#).unwrap().ingress, limit(8, 8));
    }

    #[test]
    fn every_mistake_is_said_at_once() {
        let text = r#"{
            "ingressRate": -1, "ingressBurst": 8, "egressRate": 7, "egressBurst": 34359738360,
            "runtimeConfig": {"bandwidth": {"ingressRate": "8", "ingressBurst": 1.5, "egressRate": 9, "egressBurst": null}}
        }"#;
        let said = read(text).unwrap_err();
        for mistake in [
            "ingressRate must be a whole number that is not negative, not -1",
            "ingressRate is missing: if burst is set, rate must also be set",
            "egressRate must be at least 8 bits per second",
            "egressBurst burst cannot be more than 4GB",
            r#"runtimeConfig.bandwidth.ingressRate must be a whole number that is not negative, not "8""#,
            "runtimeConfig.bandwidth.ingressBurst must be a whole number that is not negative, not 1.5",
            "runtimeConfig.bandwidth.egressBurst is missing: if rate is set, burst must also be set",
        ] {
            assert!(said.contains(mistake), "{mistake:?} is not in: {said}");
        }
        assert_eq!(read(r#"{"runtimeConfig": []}"#).unwrap_err(), "runtimeConfig must be an object, not []");
        let wrong = r#"{"runtimeConfig": {"bandwidth": 5}}"#;
        assert_eq!(read(wrong).unwrap_err(), "runtimeConfig.bandwidth must be an object, not 5");
        let brief = read(r#"{"ingressRate": 8000000000, "ingressBurst": 7999}"#).unwrap_err();
        assert!(brief.contains("at least what passes in a microsecond: 8001 bits"), "{brief}");
        assert!(
            read(r#"{"egressRate": 8, "egressBurst": 7}"#).unwrap_err().contains("egressBurst must be at least 8 bits")
        );
    }
}
