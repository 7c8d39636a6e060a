//! Frames as they pass an interface, and what is in them.

mod decode;
mod socket;

pub use decode::{Decoded, Echo, Headers, decode};
pub use socket::Tap;

use std::time::{Duration, Instant};

use super::Error;
use super::wait::eventually;

/// A place on the way of a packet.
#[derive(Debug)]
pub struct Place {
    /// How people call it: `pod1's veth`, `cni0`.
    pub name: String,
    /// What listens there.
    pub tap: Tap,
}

/// What was seen at a place.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The place.
    pub place: String,
    /// The frame.
    pub frame: Decoded,
}

/// Waits until the request with `echo`'s numbers was seen at every place and gives it in the order of `places`.
pub fn follow(places: &[Place], echo: Echo, vxlan_port: u16, limit: Duration) -> Result<Vec<Sight>, Error> {
    let mut sights: Vec<Option<Decoded>> = vec![None; places.len()];
    let until = Instant::now() + limit;
    eventually("an echo seen at every place", limit, || {
        for (place, sight) in places.iter().zip(&mut sights) {
            while sight.is_none() && Instant::now() < until {
                let Some(frame) = place.tap.next().map_err(|error| format!("{}: {error}", place.name))? else { break };
                *sight = decode(&frame, vxlan_port).filter(|decoded| decoded.inner.echo == Some(echo));
            }
        }
        let unseen: Vec<_> =
            places.iter().zip(&sights).filter(|(_, sight)| sight.is_none()).map(|(place, _)| &*place.name).collect();
        if unseen.is_empty() { Ok(()) } else { Err(format!("not at {}", unseen.join(", "))) }
    })?;
    let named = places.iter().zip(sights);
    Ok(named.filter_map(|(place, sight)| Some(Sight { place: place.name.clone(), frame: sight? })).collect())
}
