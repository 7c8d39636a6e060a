//! Reads keys that several backends share.

use gojson::Reader;

use super::Mistake;

/// A number in an inclusive range; 0 means "not set", as in Go.
pub(super) fn number(
    value: Option<u64>,
    key: &'static str,
    range: (u64, u64, &'static str),
    mistakes: &mut Vec<Mistake>,
) -> Option<u64> {
    let (low, high, wanted) = range;
    let value = value.filter(|value| *value != 0)?;
    if (low..=high).contains(&value) {
        return Some(value);
    }
    mistakes.push(Mistake::OutOfRange { key, value, wanted });
    None
}

/// A UDP port; 0 means "not set". `path` is the full key: `Backend.Port`.
pub(super) fn port(reader: &mut Reader<'_>, path: &'static str, mistakes: &mut Vec<Mistake>) -> Option<u16> {
    let key = path.rsplit('.').next().unwrap_or(path);
    number(reader.take(key), path, (1, 65535, "0 (the default) to 65535"), mistakes)
        .and_then(|port| u16::try_from(port).ok())
}
