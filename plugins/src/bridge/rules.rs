//! Packet rules of an attachment: masquerade and the check of the source MAC, both by nf_tables.

use cni::error::Error;
use cni::plugin::Request;
use cni::result::AddResult;
use ipnetwork::IpNetwork;
use kernel::nft::recipes::{macspoof, masquerade};
use kernel::nft::{Nft, NftError};
use kernel::removal::leave_to_child;
use sha2::{Digest, Sha512};

use super::conf::Conf;
use super::desired::Ends;

/// Upstream's `H(16, "", text)`: the first 16 hexadecimal digits of the SHA-512.
fn hash(text: &str) -> String {
    Sha512::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn masqueraded(network: &str, container: &str, ifname: &str) -> masquerade::Attachment {
    masquerade::Attachment::new(&hash(network), &hash(&format!("{ifname}:{container}")), network, ifname, container)
}

fn this_masquerade(request: &Request) -> masquerade::Attachment {
    masqueraded(&request.conf.name, &request.env.container_id, &request.env.ifname)
}

fn this_check(request: &Request) -> macspoof::Attachment {
    macspoof::Attachment::new(&request.env.container_id, &request.env.ifname)
}

fn nets(result: &AddResult) -> Vec<IpNetwork> {
    result.ips.iter().map(|ip| ip.address).collect()
}

/// Writes what the configuration asks for.
pub fn ensure(request: &Request, conf: &Conf, ends: &Ends, result: &AddResult) -> Result<(), Error> {
    let mut nft = Nft::open().map_err(failed("set up"))?;
    if conf.masquerade && conf.ipam.is_some() {
        let attachment = this_masquerade(request);
        let wanted = |seen: &_| masquerade::ensure(seen, &attachment, &nets(result));
        nft.update(&masquerade::table(), wanted).map_err(failed("set up the masquerade"))?;
    }
    if conf.spoof_check {
        let wanted = |seen: &_| macspoof::ensure(seen, &this_check(request), &ends.veth, ends.pod_mac);
        nft.update(&macspoof::table(), wanted).map_err(failed("set up the MAC check"))?;
    }
    Ok(())
}

fn failed(doing: &'static str) -> impl Fn(NftError) -> Error {
    move |cause| Error::internal(format!("failed to {doing} (nftables): {cause}"))
}

/// Takes away what this attachment has, by its names alone.
pub fn remove(request: &Request, conf: &Conf) -> Result<(), Error> {
    if !conf.masquerade && !conf.spoof_check {
        return Ok(());
    }
    let mut nft = Nft::open().map_err(failed("remove rules"))?;
    let masquerade = match conf.masquerade {
        true => nft.update(&masquerade::table(), |seen| masquerade::remove(seen, &this_masquerade(request))),
        false => Ok(Default::default()),
    };
    let check = match conf.spoof_check {
        true => nft.update(&macspoof::table(), |seen| macspoof::remove(seen, &this_check(request))),
        false => Ok(Default::default()),
    };
    // the kernel waits for an RCU grace period when a socket that deleted something is closed
    leave_to_child(nft);
    masquerade.map_err(failed("remove the masquerade"))?;
    check.map_err(failed("remove the MAC check"))?;
    Ok(())
}

/// What [`ensure`] would still have to write.
pub fn differences(request: &Request, conf: &Conf, ends: &Ends, previous: &AddResult) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    if !conf.masquerade && !conf.spoof_check {
        return Ok(missing);
    }
    let mut nft = Nft::open().map_err(failed("read rules"))?;
    if conf.masquerade {
        let seen = nft.view(&masquerade::table()).map_err(failed("read the masquerade"))?;
        if !masquerade::ensure(&seen, &this_masquerade(request), &nets(previous)).is_empty() {
            missing.push("the masquerade rules in table inet cni_plugins_masquerade".to_owned());
        }
    }
    if conf.spoof_check {
        let seen = nft.view(&macspoof::table()).map_err(failed("read the MAC check"))?;
        if !macspoof::ensure(&seen, &this_check(request), &ends.veth, ends.pod_mac).is_empty() {
            missing.push("the MAC check in table bridge nat".to_owned());
        }
    }
    Ok(missing)
}

/// Drops the network's masquerade rules of attachments that are not valid any more.
pub fn gc(request: &Request, conf: &Conf) -> Result<(), Error> {
    if !conf.masquerade {
        return Ok(());
    }
    let valid = request.conf.valid_attachments.as_deref().unwrap_or_default();
    let valid: Vec<_> = valid.iter().map(|a| masqueraded(&request.conf.name, &a.container_id, &a.ifname)).collect();
    let mut nft = Nft::open().map_err(failed("collect rules"))?;
    let network = hash(&request.conf.name);
    let outcome = nft.update(&masquerade::table(), |seen| masquerade::gc(seen, &network, &valid));
    leave_to_child(nft);
    outcome.map(drop).map_err(failed("collect stale masquerade rules"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_upstreams() {
        assert_eq!(format!("{}-{}", hash("net1"), hash("eth0:cid1")), "8e48f37d5de60467-0b65a318f52e521b");
    }
}
