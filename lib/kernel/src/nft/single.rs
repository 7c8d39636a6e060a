//! Reads and deletes single objects, so that the cost does not depend on how many others there are.

use super::batch::{Batch, attr, msg};
use super::element;
use super::error::NftError;
use super::read::{DELETE_TRIES, read_chain};
use super::socket::{Nft, malformed};
use super::types::{Chain, Element, Set, TableKey};

/// Identifies an element of a set or map by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementHandle {
    /// The set, as it was added.
    pub set: Set,
    /// The element. Only its key matters.
    pub element: Element,
}

impl Nft {
    /// Those chains in `names` that exist, without their rules, in one message to the kernel.
    pub fn chains_of(&mut self, table: &TableKey, names: &[&str]) -> Result<Vec<Chain>, NftError> {
        let what = format!("list chains of {table}");
        let answers = self.ask_all(&what, msg::GETCHAIN, table.family.number(), names.len(), |n, w| {
            w.text(attr::CHAIN_TABLE, &table.name);
            w.text(attr::CHAIN_NAME, names[n]);
        })?;
        answers.iter().flatten().map(|answer| read_chain(table, answer).ok_or_else(|| malformed(&what))).collect()
    }

    /// The existing element of each handle (`nft get element`), in one message to the kernel. For sets without ranges.
    pub fn elements_at(
        &mut self,
        table: &TableKey,
        handles: &[ElementHandle],
    ) -> Result<Vec<Option<Element>>, NftError> {
        let what = format!("get elements of {table}");
        let lists: Option<Vec<Vec<u8>>> =
            handles.iter().map(|handle| element::encode(&handle.set, &Element::new(&*handle.element.key))).collect();
        let lists = lists.ok_or_else(|| NftError::Unencodable { what: what.clone() })?;
        let answers = self.ask_all(&what, msg::GETSETELEM, table.family.number(), handles.len(), |n, w| {
            w.text(attr::ELEMENTS_TABLE, &table.name);
            w.text(attr::ELEMENTS_SET, &handles[n].set.name);
            w.nest(attr::ELEMENTS_LIST, |w| w.raw(&lists[n]));
        })?;
        let read = |(answer, handle): (&Option<_>, &ElementHandle)| {
            let Some(answer): &Option<super::socket::Answer> = answer else { return Ok(None) };
            let list = answer.message().attributes().get(attr::ELEMENTS_LIST).map(<[u8]>::to_vec);
            let all = list.and_then(|list| element::decode(&handle.set, &[list])).ok_or_else(|| malformed(&what))?;
            Ok(all.into_iter().next())
        };
        answers.iter().zip(handles).map(read).collect()
    }

    /// Deletes those elements that are `ours`. Each is fetched first, because another owner may have the key by now. The
    /// batch fails if anything changes in between, and everything is repeated. Returns how many were deleted.
    pub fn delete_elements_of(
        &mut self,
        table: &TableKey,
        handles: &[ElementHandle],
        ours: impl Fn(&Set, &Element) -> bool,
    ) -> Result<usize, NftError> {
        for _ in 0..DELETE_TRIES {
            let generation = self.generation()?;
            let mut batch = Batch::new().at_generation(generation);
            for (handle, found) in handles.iter().zip(self.elements_at(table, handles)?) {
                if let Some(element) = found.filter(|found| ours(&handle.set, found)) {
                    batch.delete_elements(table, &handle.set, &[element]);
                }
            }
            match self.commit(&batch) {
                Err(error) if error.is_outdated() => {}
                other => return other.map(|_| batch.len()),
            }
        }
        Err(NftError::Busy { what: "delete elements by their keys".into(), tries: DELETE_TRIES })
    }
}
