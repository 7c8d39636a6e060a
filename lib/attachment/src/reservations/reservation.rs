//! One reservation, as its file has it: the name is the address, the content says whose it is.

use std::net::IpAddr;
use std::path::Path;

use super::directory::{self, Content, Directory};
use super::span::Number;
use super::{ReservationError, directory_of};
use crate::Key;

/// To whom an address is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    /// CNI_CONTAINERID
    pub container: &'a str,
    /// CNI_IFNAME
    pub ifname: &'a str,
}

impl<'a> From<Key<'a>> for Owner<'a> {
    fn from(Key { container, ifname, .. }: Key<'a>) -> Self {
        Self { container, ifname }
    }
}

impl Owner<'_> {
    /// The content of its files.
    pub(super) fn content(self) -> String {
        format!("{}\r\n{}", self.container, self.ifname)
    }
}

/// An address that is taken, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// CNI_CONTAINERID of the ADD.
    pub container: String,
    /// CNI_IFNAME; `None` in a file of the reference plugins before 0.8, which wrote the container alone.
    pub ifname: Option<String>,
}

impl Reservation {
    pub(super) fn read(number: Number, content: &str) -> Self {
        let (container, ifname) = match content.split_once("\r\n") {
            Some((container, ifname)) => (container, Some(ifname.to_owned())),
            None => (content, None),
        };
        Self { address: number.into(), container: container.to_owned(), ifname }
    }

    /// Whether it is the attachment's. One without an interface is of all of the container's.
    pub fn is_of(&self, owner: Owner<'_>) -> bool {
        self.container == owner.container && self.ifname.as_ref().is_none_or(|ifname| ifname == owner.ifname)
    }
}

/// The reservations of a network, in the order of their addresses: for those who only look. It takes no lock, and so may
/// miss what is being reserved or released meanwhile.
///
/// # Errors
/// What the disk refuses. Where nothing was ever reserved there is nothing; files that are no reservations are left out.
pub fn list(data_dir: &Path, network: &str) -> Result<Vec<Reservation>, ReservationError> {
    let Some(directory) = Directory::open(directory_of(data_dir, network), false)? else { return Ok(Vec::new()) };
    let mut found = all(&directory)?;
    found.sort();
    Ok(found)
}

fn all(directory: &Directory) -> Result<Vec<Reservation>, ReservationError> {
    let mut found = Vec::new();
    for (name, number) in directory::addresses(directory.names()?) {
        if let Content::Text(text) = directory.read(&name)? {
            found.push(Reservation::read(number, &text));
        }
    }
    Ok(found)
}
