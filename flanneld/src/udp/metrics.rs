//! The counters as Prometheus metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::counters::{Counters, Loss};

/// A collector that reads the counters on each scrape.
#[derive(Debug)]
pub struct Crossed(pub Arc<Counters>);

impl Collector for Crossed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.0.snapshot();
        let packets = [("sent", now.sent_packets), ("received", now.received_packets)];
        let bytes = [("sent", now.sent_bytes), ("received", now.received_bytes)];
        let dropped = Loss::ALL.map(|why| (why.label(), now.dropped(why)));
        family(&mut encoder, ("udp_packets", None), "Pods' packets in datagrams", "direction", &packets)?;
        family(&mut encoder, ("udp", Some(Unit::Bytes)), "The bytes of these packets", "direction", &bytes)?;
        family(&mut encoder, ("udp_packets_dropped", None), "Packets that were dropped", "reason", &dropped)
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    (name, unit): (&str, Option<Unit>),
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
