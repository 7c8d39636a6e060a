//! A host whose /proc/sys cannot be written, such as a container without privileges: what must be set there and is not
//! is an error, the rest is passed over, as upstream does it.

use kernel::diff::Step;
use kernel::state::State;
use kernel::{Kernel, KernelError};
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Settings that a pod's interface works without: they announce its addresses, look for duplicates, keep its addresses.
const OPTIONAL: [&str; 5] = ["arp_notify", "ndisc_notify", "accept_dad", "enhanced_dad", "keep_addr_on_down"];

/// Whether the step may stay undone.
pub fn passes(kernel: &mut Kernel, step: &Step, error: &KernelError) -> Result<bool, KernelError> {
    let Some((dev, key)) = unwritable(step, error) else { return Ok(false) };
    if key != "accept_ra" {
        return Ok(OPTIONAL.contains(&key));
    }
    let Ok(dev) = dev.parse() else { return Ok(false) };
    let link = kernel.link(&dev)?;
    // a port's frames are the bridge's
    Ok(link.is_none_or(|seen| seen.master.is_some() || !seen.ipv6.is_some_and(|ipv6| ipv6.takes_routers())))
}

/// With what to do about a host that would take a pod for its router.
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

/// The link and the key of a parameter that could not be written because /proc/sys is read-only.
fn unwritable<'a>(step: &'a Step, error: &KernelError) -> Option<(&'a str, &'a str)> {
    let Step::WriteSysctl(path, _) = step else { return None };
    let mut parts = path.split('/').skip(3);
    let (dev, key) = (parts.next()?, parts.next()?);
    error.is_read_only().then_some((dev, key))
}

/// For CHECK: takes out of `wanted` what ADD passes over here.
pub fn leave_out(wanted: &mut State) {
    let locked = statvfs("/proc/sys").is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    if locked {
        wanted.sysctls.retain(|path, _| !path.rsplit('/').next().is_some_and(|key| OPTIONAL.contains(&key)));
    }
}
