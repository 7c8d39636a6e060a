//! When this host's lease ends.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use store::clock::Moment;

use super::unix;

/// When a lease ends, if it is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It is a reservation.
    Never,
    /// At this time, by the clock since boot.
    At(Moment),
}

/// The lease's end, which a pass sets and a scrape reads.
#[derive(Debug, Default)]
pub(super) struct Lease(Mutex<Option<Expiry>>);

impl Lease {
    pub(super) fn set(&self, expiry: Option<Expiry>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = expiry;
    }

    /// Unix time in seconds. It is computed on each scrape: the time of day may have been set since the last pass.
    fn seconds(&self) -> Option<f64> {
        match (*self.0.lock().unwrap_or_else(PoisonError::into_inner))? {
            Expiry::Never => Some(f64::INFINITY),
            Expiry::At(end) => Some(unix(SystemTime::now() + end.left(Moment::now()))),
        }
    }
}

/// A collector without a sample while there is no lease.
#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<Lease>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(seconds) = self.0.seconds() else { return Ok(()) };
        let gauge = ConstGauge::new(seconds);
        let help = "When this host's lease ends if it is not renewed (Unix time); +Inf for a reservation.";
        let (name, unit) = ("lease_expiry_timestamp", Some(&Unit::Seconds));
        gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Exposition, Metrics};
    use std::time::Duration;

    #[test]
    fn a_lease_has_an_end_and_a_reservation_has_none() {
        let metrics = Metrics::default();
        let value = || {
            let text = metrics.text(Exposition::Text);
            let line = text.lines().find_map(|line| line.strip_prefix("flanneld_lease_expiry_timestamp_seconds "));
            line.map(|value| value.parse::<f64>().unwrap())
        };
        assert_eq!(value(), None);
        metrics.lease(Some(Expiry::Never));
        assert_eq!(value(), Some(f64::INFINITY));
        let before = unix(SystemTime::now());
        metrics.lease(Some(Expiry::At(Moment::now().after(Duration::from_secs(3600)))));
        let left = value().unwrap() - before;
        assert!((3599.0..3700.0).contains(&left), "{left}");
        metrics.lease(None);
        assert_eq!(value(), None);
    }
}
