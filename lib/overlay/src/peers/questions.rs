//! The second, third and fourth question of a judgement.

use ipnetwork::IpNetwork;
use kernel::types::Family;

use super::claims::Rank;
use super::judge::Judgement;
use super::{Peer, Standing};
use crate::backend::Data;
use crate::lease::Subnets;
use crate::net::{address, bounds};

impl Judgement<'_> {
    /// Asks the second and third question about every half in the queue, and returns those halves.
    pub(super) fn give_subnets(&mut self) -> Vec<(Rank, Family)> {
        let mut asked = Vec::new();
        while let Some((rank, family)) = self.queue.pop_first() {
            let Some(peer) = self.book.leases.get(&rank.subnets).cloned() else { continue };
            let Some(subnet) = peer.lease.subnets.get(family) else { continue };
            self.note(&peer);
            let mut standing = self.identity(&peer, rank, family);
            if matches!(standing, Standing::Good { .. }) && !self.give(subnet, rank) {
                standing = Standing::Overlaps;
            }
            if !matches!(standing, Standing::Good { .. }) {
                self.refuse(subnet, rank);
            }
            self.set(&rank.subnets, family, standing);
            if self.before.is_some() {
                asked.push((rank, family));
            }
        }
        asked
    }

    /// Whether a half that is valid by itself owns its MAC address and its key.
    fn identity(&self, peer: &Peer, rank: Rank, family: Family) -> Standing {
        let Peer { lease, standing } = peer;
        if matches!(standing.get(family), Standing::Absent | Standing::Refused) {
            return *standing.get(family);
        }
        let key = lease.attrs.wireguard(family).is_some_and(|data| self.book.keys.has(data.public_key, rank, family));
        if key && self.book.owner_of_key(lease, family).is_some() {
            return Standing::Key;
        }
        let mac = lease.attrs.vtep(family).map(|vtep| (family, vtep.vtep_mac));
        let claimed = mac.is_some_and(|mac| self.book.macs.has(mac, rank, family));
        let vtep = claimed && self.book.owner_of_mac(lease, family).is_none();
        if claimed && !vtep && lease.attrs.backend_type.says() == Some(Data::Vtep) {
            return Standing::Mac;
        }
        Standing::Good { vtep, key }
    }

    /// Gives a half its subnet, and takes it from later halves. Returns false when an earlier half has a part of it.
    fn give(&mut self, subnet: IpNetwork, rank: Rank) -> bool {
        if self.book.spans.is_held(subnet, &rank.subnets) {
            return true;
        }
        if self.book.holder_before(subnet, rank).is_some() {
            return false;
        }
        let later: Vec<(IpNetwork, Subnets)> = self.book.spans.given_over(subnet).collect();
        for (theirs, holder) in later {
            let Some(rank) = self.book.rank_of(&holder, theirs.into()) else { continue };
            self.take_back(theirs, rank);
            self.queue.insert((rank, theirs.into()));
        }
        self.book.spans.give(subnet, rank.subnets);
        self.moved.insert(subnet);
        true
    }

    fn refuse(&mut self, subnet: IpNetwork, rank: Rank) {
        if self.book.spans.is_held(subnet, &rank.subnets) {
            self.take_back(subnet, rank);
        }
        self.book.spans.refuse(subnet, rank.subnets);
    }

    fn take_back(&mut self, subnet: IpNetwork, rank: Rank) {
        self.book.spans.take_back(subnet);
        self.moved.insert(subnet);
        self.free(subnet, Some(rank));
    }

    /// Queues the halves that were refused `subnet` or a part of it and come after its holder: they may get it now.
    pub(super) fn free(&mut self, subnet: IpNetwork, holder: Option<Rank>) {
        let family = Family::from(subnet);
        let Some((network, _)) = *self.rules.families.get(family) else { return };
        for key in self.book.spans.refused_over(subnet, network) {
            let Some(peer) = self.book.leases.get(&key) else { continue };
            let Some(rank) = self.book.rank(&peer.lease, family) else { continue };
            if *peer.standing.get(family) == Standing::Overlaps && Some(rank) > holder {
                self.queue.insert((rank, family));
            }
        }
    }

    /// The halves whose address is in a subnet that was given or withdrawn.
    pub(super) fn find_concerned(&self) -> Vec<(Rank, Family)> {
        let mut concerned = Vec::new();
        for subnet in &self.moved {
            let (family, (first, last)) = (Family::from(*subnet), bounds(*subnet));
            for key in self.book.addresses.publishing(address(family, first), address(family, last)) {
                concerned.extend(self.book.rank_of(&key, family).map(|rank| (rank, family)));
            }
        }
        concerned
    }

    /// Asks the fourth question.
    pub(super) fn find_loops(&mut self, halves: Vec<(Rank, Family)>) {
        for (Rank { subnets: key, .. }, family) in halves {
            let Some(peer) = self.book.leases.get(&key) else { continue };
            let placed = key.get(family).is_some_and(|subnet| self.book.spans.is_held(subnet, &key));
            let Some(public) = peer.lease.attrs.public(family).filter(|_| placed) else { continue };
            let standing = *peer.standing.get(family);
            let now = match (standing, self.book.spans.given_around(public)) {
                (_, Some(_)) => Standing::Loops,
                (Standing::Loops, None) => {
                    let rank = self.book.rank(&peer.lease, family);
                    rank.map_or(standing, |rank| self.identity(peer, rank, family))
                }
                (other, None) => other,
            };
            if now != standing {
                let peer = peer.clone();
                self.note(&peer);
                self.set(&key, family, now);
            }
        }
    }
}
