//! nf_tables over netlink: tables, chains, rules, sets and maps are changed in one transaction and read back.
//!
//! It needs neither the `nft` program nor a C library. `nft list ruleset` prints what this module writes as if an
//! administrator had typed it, comments included. This module also reads what `nft` wrote.
//!
//! ```no_run
//! use kernel::nft::*;
//! let key = TableKey::new(NftFamily::Inet, "example");
//! let mut batch = Batch::new();
//! batch.add_table(&Table { key: key.clone(), comment: Some("an example".into()), dormant: false });
//! batch.add_chain(&key, &Chain::base("out", Base::new(ChainKind::Nat, Hook::Postrouting, Base::SRCNAT)));
//! batch.add_rule(&key, "out", &RuleBuilder::new(key.family).mark(Is::Eq, 0x4000).masquerade(true).done());
//! Nft::open()?.commit(&batch)?;
//! # Ok::<(), NftError>(())
//! ```
//!
//! Sources: linux/netfilter/nf_tables.h, net/netfilter/{nfnetlink,nf_tables_api}.c (Linux 6.18); nftables 1.0.6 for
//! what only `nft` and libnftnl agree on (type numbers, user data).

mod apply;
mod batch;
mod builder;
mod element;
mod error;
mod expr;
mod read;
mod single;
mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod types;
mod userdata;
mod value;
mod watch;

pub use apply::RuleHandle;
pub use batch::Batch;
pub use builder::{Field, MapData, RuleBuilder, Side, ct, xt_ct};
pub use error::{NftError, Refusal};
pub use expr::{Expr, Is, MetaKey, NatKind, PayloadBase, Reg, Verdict};
pub use read::{Selection, TableView, read_datagram};
pub use single::ElementHandle;
pub use socket::Nft;
pub use types::{
    Base, Chain, ChainKind, Data, DataType, Element, Hook, ListedRule, NftFamily, Policy, Rule, Set, Table, TableKey,
    Timeout,
};
pub use userdata::{COMMENT_MAX, clip};
pub use value::{Type, Value};
pub use watch::NftWatch;
