//! What plugins made for an attachment besides its links, from its record.

use attachment::bandwidth::Bandwidth;
use attachment::record::Record;
use attachment::rules::{iptables, macspoof, masquerade};
use attachment::section::Section;
use ipnetwork::IpNetwork;
use kernel::types::IfName;

use super::Ruled;
use crate::attachments::programs::ByProgram;
use crate::attachments::records::Name;

/// The limits of the attachment's rate.
pub(in crate::attachments) fn limits(record: &Record) -> Option<&Bandwidth> {
    let kept = record.section("bandwidth").filter(|kept| kept.committed)?;
    if let Section::Bandwidth(bandwidth) = &kept.section { Some(bandwidth) } else { None }
}

/// The packet rules of chained plugins.
pub(super) fn chained(name: &Name, record: &Record) -> Vec<Ruled> {
    let finished = record.sections.iter().filter(|kept| kept.committed);
    let of_section = |section: &Section| {
        let rules = section.rules(name.key()).into_iter();
        rules.map(|rules| Ruled { owner: name.clone(), rules, chained: Some(section.plugin()) }).collect::<Vec<_>>()
    };
    finished.flat_map(|kept| of_section(&kept.section)).collect()
}

/// What other programs keep for the plugin with the interface and for chained ones.
pub(super) fn by_programs(name: &Name, record: &Record) -> Vec<ByProgram> {
    let (owner, mut all) = (name.clone(), Vec::new());
    if record.committed && record.iptables {
        let parts = iptables::masquerade::parts(name.key(), &nets(record), &record.masquerade_exclude);
        all.push(ByProgram { owner, chained: None, parts, sources: None });
    }
    for kept in record.sections.iter().filter(|kept| kept.committed) {
        let parts = kept.section.iptables(name.key()).map(|(parts, _)| parts).unwrap_or_default();
        let sources = kept.section.sources().map(|(zone, sources)| (zone.to_owned(), sources));
        if !parts.is_empty() || sources.is_some() {
            all.push(ByProgram { owner: name.clone(), chained: Some(kept.section.plugin()), parts, sources });
        }
    }
    all
}

/// The pod's addresses with their prefix lengths.
fn nets(record: &Record) -> Vec<IpNetwork> {
    record.pod.iter().flat_map(|pod| &pod.addresses).filter_map(|net| net.parse().ok()).collect()
}

/// The packet rules of the plugin with the interface.
pub(super) fn rules(name: &Name, record: &Record) -> Vec<Ruled> {
    if !record.committed {
        return Vec::new();
    }
    let pod = record.pod.as_ref();
    let mut all = Vec::new();
    if !record.rules_of(&masquerade::table()).is_empty() {
        all.push(masquerade::rules(name.key(), &nets(record), &record.masquerade_exclude));
    }
    let ends = record.host.as_ref().and_then(|host| Some((IfName::new(&host.name).ok()?, pod?.mac.parse().ok()?)));
    if let (false, Some((host, mac))) = (record.rules_of(&macspoof::table()).is_empty(), ends) {
        all.push(macspoof::rules(name.key(), Some((&host, mac))));
    }
    all.into_iter().map(|rules| Ruled { owner: name.clone(), rules, chained: None }).collect()
}
