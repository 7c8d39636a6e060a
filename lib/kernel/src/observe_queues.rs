//! Reads queueing disciplines and filters.

use std::collections::btree_map::Entry;

use netlink_packet_core::NLM_F_ECHO;

use crate::kernel::Kernel;
use crate::message::{Encoded, Request, queue};
use crate::netlink::KernelError;
use crate::netlink::wire::Incoming;
use crate::state::{Filter, FilterAction, FilterKey, QdiscPlace, Selects, State};
use crate::types::{IfIndex, IfName};

impl Kernel {
    /// Adds the queueing disciplines of those links that are known, and their filters at ingress.
    pub(crate) fn observe_queues(&mut self, links: &[IfName], state: &mut State) -> Result<(), KernelError> {
        // a dump would read the disciplines of all links of the host
        let mut requests = Vec::new();
        for dev in links {
            let Some(index) = self.names().index(dev) else { continue };
            requests.extend([QdiscPlace::Root, QdiscPlace::Ingress].map(|place| {
                let what = format!("tc qdisc show dev {dev} {place}");
                // Linux before 6.10 sends the object only to those that listen, and to a requester that asks for an echo
                Request::of(queue::get(index, place).into(), NLM_F_ECHO, what)
            }));
        }
        let Self { socket, seen, .. } = self;
        for found in socket.transact_and_read(&requests, &|message| Ok(queue::decode(message, seen))) {
            match found {
                Ok(found) => state.qdiscs.extend(found),
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        let at_ingress = state.qdiscs.keys().filter(|key| key.place == QdiscPlace::Ingress);
        let filtered: Vec<IfName> = at_ingress.map(|key| key.dev.clone()).filter(|dev| links.contains(dev)).collect();
        for dev in filtered {
            if let Some(index) = self.names().index(&dev) {
                self.observe_filters(&dev, index, state)?;
            }
        }
        Ok(())
    }

    fn observe_filters(&mut self, dev: &IfName, index: IfIndex, state: &mut State) -> Result<(), KernelError> {
        let what = format!("tc filter show dev {dev} ingress");
        let request = Request::of(queue::list_filters(index).into(), 0, what);
        let keep = |message: &Incoming<'_>| Ok(Some(Encoded { kind: message.kind, body: message.body.to_vec() }));
        let messages = self.socket.dump_and_read(&request, keep)?;
        for message in &messages {
            if let Some(target) = queue::target(&message.into()) {
                self.name(target)?;
            }
            if let Some((key, filter)) = queue::decode_filter(&message.into(), &self.seen) {
                insert(state, key, filter);
            }
        }
        Ok(())
    }
}

/// A place that has several filters has none that is known.
fn insert(state: &mut State, key: FilterKey, filter: Filter) {
    match state.filters.entry(key) {
        Entry::Vacant(place) => drop(place.insert(filter)),
        Entry::Occupied(mut place) if *place.get() != filter => {
            place.insert(Filter { selects: Selects::Other, action: FilterAction::Other });
        }
        Entry::Occupied(_) => {}
    }
}
