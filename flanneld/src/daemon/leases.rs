//! From what a store says now to what has changed in it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay::lease::{LeaseChanges, StoredLease, Subnets};

/// Keys and values.
type Values = BTreeMap<String, Arc<[u8]>>;

/// What has changed from `before` to `now`.
pub(super) fn changes(before: &Values, now: &Values) -> LeaseChanges {
    let mut changes = LeaseChanges::default();
    for (key, value) in now.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
        match StoredLease::read(key, value, 0) {
            Ok(lease) => {
                changes.refused.push((key.clone(), None));
                changes.put.push(lease);
            }
            Err(refusal) => {
                changes.refused.push((key.clone(), Some(refusal)));
                changes.gone.extend(canonical(key));
            }
        }
    }
    for key in before.keys().filter(|key| !now.contains_key(*key)) {
        changes.refused.push((key.clone(), None));
        changes.gone.extend(canonical(key));
    }
    changes
}

/// The subnets of a key in its one spelling.
fn canonical(key: &str) -> Option<Subnets> {
    key.parse().ok().filter(|subnets: &Subnets| subnets.to_string() == key)
}

#[cfg(test)]
mod tests {
    use overlay::lease::Refusal;

    use super::*;

    fn values(all: &[(&str, &str)]) -> Values {
        all.iter().map(|(key, value)| ((*key).to_owned(), Arc::from(value.as_bytes()))).collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let before = values(&[("10.5.1.0-24", "{}"), ("10.5.2.0-24", "{}"), ("10.5.3.0-24", "{}"), ("junk", "x")]);
        let now = values(&[("10.5.1.0-24", "{}"), ("10.5.2.0-24", "x"), ("10.5.3.0-024", "{}"), ("10.5.4.0-24", "{}")]);
        let LeaseChanges { snapshot, put, gone, refused } = changes(&before, &now);
        let put: Vec<String> = put.iter().map(|lease| lease.subnets.to_string()).collect();
        let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
        assert_eq!(
            (snapshot, put, gone),
            (false, vec!["10.5.4.0-24".into()], vec!["10.5.2.0-24".into(), "10.5.3.0-24".into()])
        );
        let refused: BTreeMap<_, _> = refused.into_iter().collect();
        assert!(matches!(refused["10.5.2.0-24"], Some(Refusal::Value(_))));
        assert!(matches!(refused["10.5.3.0-024"], Some(Refusal::NotCanonical { .. })));
        assert_eq!((&refused["junk"], &refused["10.5.4.0-24"]), (&None, &None));
        assert!(changes(&now, &now).is_empty());
    }
}
