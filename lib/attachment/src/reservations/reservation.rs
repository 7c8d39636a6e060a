//! A reservation as a file: the file name is the address, the content is the owner.

use std::net::IpAddr;
use std::path::Path;

use super::directory::{self, Content, Directory};
use super::span::Number;
use super::{ReservationError, directory_of};
use crate::Key;

/// The attachment that an address is reserved for.
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
    /// The content of the owner's files.
    pub(super) fn content(self) -> String {
        format!("{}\r\n{}", self.container, self.ifname)
    }
}

/// A reserved address and its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// CNI_CONTAINERID of the owner.
    pub container: String,
    /// CNI_IFNAME; `None` in a file of the reference plugins before 0.8, which contains only the container ID.
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

    /// Whether it belongs to the attachment. One without an interface belongs to all attachments of its container.
    #[cfg(test)]
    pub(crate) fn is_of(&self, owner: Owner<'_>) -> bool {
        self.container == owner.container && self.ifname.as_ref().is_none_or(|ifname| ifname == owner.ifname)
    }
}

/// Lists the reservations of a network in the order of their addresses, for readers only. It takes no lock, so it may
/// miss concurrent changes.
///
/// # Errors
/// An operation on the disk failed. A missing directory has no reservations. Other files are skipped.
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
