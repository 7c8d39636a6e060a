//! Keys that several backends have.

use gojson::Reader;

use super::Mistake;

/// A number in a range that includes both ends; 0 is Go's "not set".
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

/// A UDP port; 0 and absent are "not set". `path` is the key with the objects around it: `Backend.Port`.
pub(super) fn port(reader: &mut Reader<'_>, path: &'static str, mistakes: &mut Vec<Mistake>) -> Option<u16> {
    let key = path.rsplit('.').next().unwrap_or(path);
    number(reader.take(key), path, (1, 65535, "0 (the default) to 65535"), mistakes)
        .and_then(|port| u16::try_from(port).ok())
}
