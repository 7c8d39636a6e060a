//! Captures frames at interfaces and decodes them.

mod decode;
mod socket;

pub use decode::{Decoded, Echo, Headers, decode};
pub use socket::Tap;

use std::time::{Duration, Instant};

use super::Error;
use super::wait::eventually;

/// A place where frames are captured.
#[derive(Debug)]
pub struct Place {
    /// The name for the reader, such as `pod1's veth` or `cni0`.
    pub name: String,
    /// The socket that captures there.
    pub tap: Tap,
}

/// A frame that was captured at a place.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The place's name.
    pub place: String,
    /// The frame.
    pub frame: Decoded,
}

/// Waits until the request with the numbers of `echo` was captured at every place. Returns the frames in the order of
/// `places`.
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
