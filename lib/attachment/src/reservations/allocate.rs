//! Allocates an address: the next free one of a set, or a requested one.

use std::net::IpAddr;

use rustix::fs::OFlags;

use super::directory::{self, Content, Directory};
use super::{Kept, Number, Owner, Range, RangeSet, ReservationError, Reservations, Span, name, sys};

impl Kept {
    /// The next address that may be free. It is never the gateway.
    fn candidate(
        &mut self,
        directory: &Directory,
        range: &Range,
        mut span: Span,
    ) -> Result<Option<Number>, ReservationError> {
        let gateway = Number::from(range.gateway);
        loop {
            match self.ask(directory, |index| index.next_free(span))? {
                Some(number) if number == gateway && number == span.last => return Ok(None),
                Some(number) if number == gateway => span.first = number.next(),
                found => return Ok(found),
            }
        }
    }
}

impl Reservations {
    /// Reserves this address, even if a container that it outlived still has it. Returns false if it is taken.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn reserve(&mut self, ip: IpAddr, owner: Owner<'_>) -> Result<bool, ReservationError> {
        let (number, content) = (ip.into(), owner.content());
        if !take(&self.directory, number, &mut self.directory.draft(&content)?)? {
            let outlived = self.index.ask(&self.directory, |index| index.outlived())?;
            let reclaimed = self.reclaim(outlived.into_iter().filter(|slot| slot.number == number))?;
            if !reclaimed || !take(&self.directory, number, &mut self.directory.draft(&content)?)? {
                return Ok(false);
            }
        }
        self.index.ask(&self.directory, |index| index.insert(number, &content))?;
        Ok(true)
    }

    /// Reserves the next free address of the set after `last` and returns it with its range. If all are taken, reserves
    /// one that outlived its container. Before it reports that none is free, it reads the directory.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn reserve_next<'s>(
        &mut self,
        set: &'s RangeSet,
        last: Option<IpAddr>,
        owner: Owner<'_>,
    ) -> Result<Option<(IpAddr, &'s Range)>, ReservationError> {
        let (last, content) = (last.map(Number::from), owner.content());
        let found = self.search(set, last, &content)?;
        if found.is_some() {
            return Ok(found);
        }
        let outlived = self.index.ask(&self.directory, |index| index.outlived())?;
        if self.reclaim(outlived.into_iter().filter(|slot| set.range_of(slot.number.into()).is_some()))? {
            return self.search(set, last, &content);
        }
        if self.index.index.fresh {
            return Ok(None);
        }
        self.index.reread(&self.directory)?;
        self.search(set, last, &content)
    }

    fn search<'s>(
        &mut self,
        set: &'s RangeSet,
        last: Option<Number>,
        content: &str,
    ) -> Result<Option<(IpAddr, &'s Range)>, ReservationError> {
        let mut draft = None;
        for (range, mut span) in set.search_order(last) {
            while let Some(number) = self.index.candidate(&self.directory, range, span)? {
                let draft = match &mut draft {
                    Some(draft) => draft,
                    none => none.insert(self.directory.draft(content)?),
                };
                if take(&self.directory, number, draft)? {
                    self.index.ask(&self.directory, |index| index.insert(number, content))?;
                    return Ok(Some((number.into(), range)));
                }
                self.index.ask(&self.directory, |index| index.doubt(number))?;
                if number == span.last {
                    break;
                }
                span.first = number.next();
            }
        }
        Ok(None)
    }

    /// Whether an address of the set could be reserved now.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn has_free(&mut self, set: &RangeSet) -> Result<bool, ReservationError> {
        for (range, span) in set.search_order(None) {
            if self.index.candidate(&self.directory, range, span)?.is_some() {
                return Ok(true);
            }
        }
        let outlived = self.index.ask(&self.directory, |index| index.outlived())?;
        Ok(outlived.iter().any(|slot| set.range_of(slot.number.into()).is_some()))
    }

    /// The address that was last allocated from the set with this number; `None` if that is unknown.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn last_reserved(&self, set: usize) -> Result<Option<IpAddr>, ReservationError> {
        let content = self.directory.read(&last_reserved_name(set))?;
        Ok(if let Content::Text(text) = content { gojson::parse_ip(&text) } else { None })
    }

    /// Notes the address that was last allocated. Written in place, as upstream does: after a crash in between, the
    /// next search only starts elsewhere.
    ///
    /// # Errors
    /// An operation on the disk failed.
    pub fn set_last_reserved(&self, set: usize, ip: IpAddr) -> Result<(), ReservationError> {
        let file_name = last_reserved_name(set);
        self.overwrite(&file_name, name(ip.into()).as_bytes())
            .map_err(|cause| self.directory.failed("write", &file_name, cause))
    }

    /// Writes without O_TRUNC. ext4 takes a file that was truncated and rewritten for a replacement and starts to write
    /// it to disk on close (auto_da_alloc), which costs more than the rest of an allocation.
    fn overwrite(&self, file_name: &str, content: &[u8]) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW;
        let file = sys::open_at(&self.directory.fd, file_name, flags, sys::FILE)?;
        sys::write_at(&file, content, 0)?;
        let length = content.len() as u64;
        if sys::length(&file)? > length { sys::truncate(&file, length) } else { Ok(()) }
    }

    /// Checks that a reservation could be written. Creates a file and removes it.
    ///
    /// # Errors
    /// No reservation could be written.
    pub fn probe_writable(&self) -> Result<(), ReservationError> {
        self.directory.draft("").map(drop)
    }
}

/// Publishes the draft under the address's name. An empty file of that name belongs to nobody and is replaced.
fn take(directory: &Directory, number: Number, draft: &mut directory::Draft<'_>) -> Result<bool, ReservationError> {
    let name = name(number);
    if draft.publish(&name)? {
        return Ok(true);
    }
    if directory.read(&name)? != Content::Empty {
        return Ok(false);
    }
    directory.remove(&name)?;
    draft.publish(&name)
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}
