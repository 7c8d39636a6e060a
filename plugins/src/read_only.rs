//! Handles a host with a read-only /proc/sys, such as an unprivileged container: a required setting with a wrong
//! value is an error, and other settings are skipped, as upstream does.

use kernel::diff::Step;
use kernel::state::State;
use kernel::{Kernel, KernelError};
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Settings that a pod's interface can do without: they announce addresses, detect duplicates, or keep addresses.
const OPTIONAL: [&str; 5] = ["arp_notify", "ndisc_notify", "accept_dad", "enhanced_dad", "keep_addr_on_down"];

/// Whether the step may be skipped.
pub fn passes(kernel: &mut Kernel, step: &Step, error: &KernelError) -> Result<bool, KernelError> {
    let Some((dev, key)) = unwritable(step, error) else { return Ok(false) };
    if key != "accept_ra" {
        return Ok(OPTIONAL.contains(&key));
    }
    let Ok(dev) = dev.parse() else { return Ok(false) };
    let link = kernel.link(&dev)?;
    // The bridge handles a port's frames.
    Ok(link.is_none_or(|seen| seen.master.is_some() || !seen.ipv6.is_some_and(|ipv6| ipv6.takes_routers())))
}

/// Adds advice for a host that would accept a pod as its router.
pub fn explained(step: &Step, error: KernelError) -> KernelError {
    match unwritable(step, &error) {
        Some((_, "accept_ra")) => KernelError {
            text: Some(
                "a pod could make itself the host's router: make /proc/sys writable, or set net.ipv6.conf.default.accept_ra=0".into(),
            ),
            ..error
        },
        _ => error,
    }
}

/// The link and the key of a setting that could not be written because /proc/sys is read-only.
fn unwritable<'a>(step: &'a Step, error: &KernelError) -> Option<(&'a str, &'a str)> {
    let Step::WriteSysctl(path, _) = step else { return None };
    let mut parts = path.split('/').skip(3);
    let (dev, key) = (parts.next()?, parts.next()?);
    error.is_read_only().then_some((dev, key))
}

/// Removes from `wanted` the settings that ADD skips here. For CHECK.
pub fn leave_out(wanted: &mut State) {
    let locked = statvfs("/proc/sys").is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    if locked {
        wanted.sysctls.retain(|path, _| !path.rsplit('/').next().is_some_and(|key| OPTIONAL.contains(&key)));
    }
}
