//! The parameters of a token bucket filter, `struct tc_tbf_qopt`.

use super::{Writer, word};
use crate::netlink::wire::Attributes;
use crate::state::Tbf;

/// TCA_TBF_PARMS, TCA_TBF_RATE64
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;

/// Nanoseconds in a tick, the unit of a burst (PSCHED_SHIFT, include/net/pkt_sched.h).
const TICK: u64 = 64;

/// TC_LINKLAYER_ETHERNET: the kernel then needs no table of transmission times.
const ETHERNET: u8 = 1;

/// The burst as the time that it takes at the rate, in ticks. It is rounded as the reference plugin rounds it, first
/// to microseconds, because its CHECK compares the number.
fn ticks(Tbf { rate, burst, .. }: Tbf) -> u32 {
    let micros = (f64::from(burst) * 1e6 / rate as f64) as u32;
    (f64::from(micros) * 1000.0 / TICK as f64) as u32
}

/// The bytes that pass at the rate in so many ticks.
fn bytes(rate: u64, ticks: u32) -> u32 {
    let nanos = u128::from(ticks) * u128::from(TICK);
    let bytes = (nanos * u128::from(rate) + 500_000_000) / 1_000_000_000;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

pub(super) fn write(writer: &mut Writer, tbf: Tbf) {
    let short = u32::try_from(tbf.rate).unwrap_or(u32::MAX);
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate; the peak's is zero
    let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    for word in [short, 0, 0, 0, tbf.limit, ticks(tbf), 0] {
        parameters.extend(word.to_ne_bytes());
    }
    writer.attr(PARAMETERS, &parameters);
    if tbf.rate > u64::from(short) {
        writer.attr(RATE64, &tbf.rate.to_ne_bytes());
    }
}

/// `None` for one that also limits the peak rate.
pub(super) fn read(options: &Attributes<'_>) -> Option<Tbf> {
    let parameters = options.get(PARAMETERS)?;
    let [short, peak, limit, buffer] = [8, 20, 24, 28].map(|at| word(parameters, at));
    let long = options.get(RATE64).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    let rate = long.or(short.map(u64::from))?;
    (peak == Some(0)).then_some(Tbf { rate, burst: bytes(rate, buffer?), limit: limit? })
}
