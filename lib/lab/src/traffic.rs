//! Streams between many pods at the same time.

use std::time::Duration;

use super::Error;
use super::cluster::Cluster;
use super::flow::{Counts, Flow};
use super::wait::eventually;

/// Datagrams per second of all streams together.
pub const RATE: u64 = 10_000;
/// The most streams. More threads would only compete for the cores.
const STREAMS: usize = 8;
/// The limit for steps that normally take seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Running streams.
#[derive(Debug)]
pub struct Traffic {
    flows: Vec<Flow>,
}

impl Traffic {
    /// Starts a stream for each pair and family, up to eight, with [`RATE`] datagrams per second together.
    pub fn start(cluster: &Cluster, pairs: &[(usize, usize)]) -> Result<Self, Error> {
        Self::at(cluster, pairs, RATE)
    }

    /// As [`Traffic::start`], with `rate` datagrams per second of all streams together.
    pub fn at(cluster: &Cluster, pairs: &[(usize, usize)], rate: u64) -> Result<Self, Error> {
        let of = |(from, to): &(usize, usize)| {
            let (from, to) = (*from, *to);
            cluster.families().iter().map(move |family| (from, to, *family))
        };
        let ends: Vec<_> = pairs.iter().flat_map(of).take(STREAMS).collect();
        let rate = rate / ends.len().max(1) as u64;
        let flows = ends.into_iter().map(|(from, to, family)| cluster.flow(from, to, family, rate));
        Ok(Self { flows: flows.collect::<Result<_, _>>()? })
    }

    /// The number of streams.
    pub fn streams(&self) -> usize {
        self.flows.len()
    }

    /// The number of datagrams sent up to now.
    pub fn sent(&self) -> u64 {
        self.flows.iter().map(Flow::sent).sum()
    }

    /// Waits until so many more datagrams have been sent.
    pub fn pass(&self, datagrams: u64) -> Result<(), Error> {
        let goal = self.sent() + datagrams;
        eventually("the streams continue", PATIENCE, || match self.sent() {
            sent if sent >= goal => Ok(()),
            sent => Err(format!("{sent} of {goal} datagrams sent")),
        })
    }

    /// Stops all streams and returns the sum of their counts.
    pub fn stop(self) -> Result<Counts, Error> {
        self.flows.iter().for_each(Flow::end);
        let counts: Result<Vec<_>, _> = self.flows.into_iter().map(Flow::stop).collect();
        Ok(counts?.iter().fold(Counts::default(), Counts::and))
    }
}
