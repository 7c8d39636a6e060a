//! The formats in which metrics are written, and which of them a client gets.

use std::collections::BTreeSet;

/// The format in which metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4, the default.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// The format that an `Accept` header prefers (RFC 9110 §12.5.1). Of two that it likes alike it is OpenMetrics.
    pub fn accepted(header: Option<&str>) -> Self {
        let ranges: Vec<Range<'_>> = header.unwrap_or_default().split(',').map(Range::parse).collect();
        let weight = |names: &[&str], version: &str| {
            let fits = |range: &&Range<'_>| names.contains(&range.name) && range.version.is_none_or(|v| v == version);
            ranges.iter().filter(fits).map(|range| range.weight).max().unwrap_or_default()
        };
        let openmetrics = weight(&["application/openmetrics-text"], "1.0.0");
        // a client that takes anything is a browser or curl
        let text = weight(&["text/plain", "text/*"], "0.0.4");
        if openmetrics > 0 && openmetrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The format's content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The same metrics in this format.
    pub(super) fn of_openmetrics(self, openmetrics: String) -> String {
        match self {
            Self::OpenMetrics => openmetrics,
            Self::Text => in_text_format(&openmetrics),
        }
    }
}

/// A media range of an `Accept` header.
struct Range<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// Thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { name: parts.next().unwrap_or_default(), version: None, weight: 1000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "q" => range.weight = value.parse::<f32>().map_or(0, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16),
                "version" => range.version = Some(value.trim_matches('"')),
                _ => {}
            }
        }
        range
    }
}

/// Converts OpenMetrics to the text format, which has no units and no end mark, and names a counter as its samples.
fn in_text_format(openmetrics: &str) -> String {
    let counters: BTreeSet<&str> =
        openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) if counters.contains(name) => {
                text.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        // as Prometheus 2.42 asks
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (header, wanted) in [
            (Some(prometheus), Exposition::OpenMetrics),
            (Some("application/openmetrics-text; version=\"1.0.0\"; q=0.6, text/plain;q=0.5"), Exposition::OpenMetrics),
            (Some("text/plain;q=0.5,application/openmetrics-text"), Exposition::OpenMetrics),
            (Some("text/plain;version=0.0.4,application/openmetrics-text;q=0.5"), Exposition::Text),
            (Some("application/openmetrics-text;q=0,text/plain;q=0.1"), Exposition::Text),
            (Some("application/openmetrics-text;version=2.0.0"), Exposition::Text),
            (Some("application/openmetrics-text;q=much"), Exposition::Text),
            (Some("*/*"), Exposition::Text),
            (Some(""), Exposition::Text),
            (None, Exposition::Text),
        ] {
            assert_eq!(Exposition::accepted(header), wanted, "{header:?}");
        }
    }
}
