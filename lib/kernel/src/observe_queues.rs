//! Reads queueing disciplines and filters.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use netlink_packet_core::NLM_F_ECHO;

use crate::kernel::Kernel;
use crate::message::{Request, queue};
use crate::netlink::KernelError;
use crate::state::{Filter, FilterAction, FilterKey, QdiscPlace, Selects, State};
use crate::types::{IfIndex, IfName};

impl Kernel {
    /// Adds the queueing disciplines of the links, and their filters at ingress.
    pub(crate) fn observe_queues(&mut self, links: &[IfName], state: &mut State) -> Result<(), KernelError> {
        for dev in links {
            match self.index(dev) {
                Ok(index) => self.observe_queues_of(dev, index, state)?,
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn observe_queues_of(&mut self, dev: &IfName, index: IfIndex, state: &mut State) -> Result<(), KernelError> {
        // a dump would read the disciplines of all links of the host
        let requests = [QdiscPlace::Root, QdiscPlace::Ingress].map(|place| {
            let what = format!("tc qdisc show dev {dev} {place}");
            // Linux before 6.10 sends the object only to those that listen, and to a requester that asks for an echo
            Request::of(queue::get(index, place).into(), NLM_F_ECHO, what)
        });
        let Self { socket, seen, .. } = self;
        for found in socket.transact_and_read(&requests, &|message| Ok(queue::decode(message, seen))) {
            match found {
                Ok(found) => state.qdiscs.extend(found),
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        let has_ingress = state.qdiscs.keys().any(|key| key.dev == *dev && key.place == QdiscPlace::Ingress);
        if has_ingress { self.observe_filters(dev, index, state) } else { Ok(()) }
    }

    fn observe_filters(&mut self, dev: &IfName, index: IfIndex, state: &mut State) -> Result<(), KernelError> {
        let what = format!("tc filter show dev {dev} ingress");
        let request = Request::of(queue::list_filters(index).into(), 0, what);
        let mut targets = BTreeSet::new();
        self.socket.dump_and_read(&request, |message| {
            targets.extend(queue::target(message));
            Ok(None::<()>)
        })?;
        for target in targets {
            self.name(target)?;
        }
        let Self { socket, seen, .. } = self;
        let filters = socket.dump_and_read(&request, |message| Ok(queue::decode_filter(message, seen)))?;
        filters.into_iter().for_each(|(key, filter)| insert(state, key, filter));
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
