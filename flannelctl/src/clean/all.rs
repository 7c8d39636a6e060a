//! `flannelctl clean --all`: what a stopped flanneld and the plugins keep on a host, so that pods' traffic goes on.

use std::path::Path;

use attachment::record::MADE;
use ipnetwork::IpNetwork;
use kernel::message::link::SeenLink;
use kernel::state::nft::NftScope;
use kernel::state::{LinkKind, Scope, State};
use kernel::types::{RouteProtocol, TableId};
use kernel::{Kernel, KernelError};
use overlay::ownership::{is_mark, marked};
use overlay::rules::reads;
use overlay::status::path_beside;

use super::Left;

/// The files beside subnet.env, and itself. A WireGuard key stays: peers know it.
const FILES: [&str; 2] = ["status.json", "nodes.json"];

/// Routes, tables of packet rules, devices, the bridge if no pod is on it, files.
pub(super) fn find(kernel: &mut Kernel, subnet_file: &Path) -> Result<Vec<Left>, KernelError> {
    let links = kernel.links()?;
    let mut left = routes(kernel, &links)?;
    left.extend(tables(kernel, &links)?);
    left.extend(links.iter().filter(|link| is_ours(link, &links)).map(|link| Left::Link(link.name.clone())));
    let files =
        FILES.map(|name| path_beside(subnet_file).with_file_name(name)).into_iter().chain([subnet_file.to_owned()]);
    left.extend(files.filter(|path| path.is_file()).map(Left::File));
    Ok(left)
}

/// Those of flanneld's protocol that do not go with a device.
fn routes(kernel: &mut Kernel, links: &[SeenLink]) -> Result<Vec<Left>, KernelError> {
    let goes = |dev: &kernel::types::IfName| links.iter().any(|link| link.name == *dev && is_device(link));
    let all = kernel.routes(TableId::MAIN)?.into_iter();
    let ours = all.filter(|(_, route)| route.protocol == RouteProtocol::FLANNEL);
    Ok(ours
        .filter(|(_, route)| !route.dev.as_ref().is_some_and(goes))
        .map(|(key, route)| Left::Route(key, route))
        .collect())
}

/// Upstream's tables, and those with the name of a network that a device names.
fn tables(kernel: &mut Kernel, links: &[SeenLink]) -> Result<Vec<Left>, KernelError> {
    let networks: Vec<IpNetwork> =
        links.iter().filter_map(|link| marked(link.link.alias.as_deref()?)).flatten().collect();
    let mut left = Vec::new();
    for (table, whole) in reads(networks.iter(), &[]).nft.into_iter().filter(|(_, scope)| *scope == NftScope::Whole) {
        let scope = Scope { nft: [(table.clone(), whole)].into(), ..Scope::default() };
        let plan = kernel.plan(&State::default(), &scope, None)?;
        left.extend((!plan.steps.is_empty()).then_some(Left::Table(table)));
    }
    Ok(left)
}

fn is_device(link: &SeenLink) -> bool {
    link.link.alias.as_deref().is_some_and(is_mark)
}

fn is_ours(link: &SeenLink, all: &[SeenLink]) -> bool {
    let is_made = link.link.alias.as_deref() == Some(MADE) && matches!(link.link.kind, LinkKind::Bridge(_));
    is_device(link) || is_made && !all.iter().any(|other| other.master == Some(link.index.0))
}
