//! A transaction: operations that are carried out together or not at all.

use super::element;
use super::types::{Base, Chain, DataType, Element, NftFamily, Policy, Rule, Set, Table, TableKey, Timeout};
use super::userdata;
use super::value::Type;
use crate::netlink::client::Client;
use crate::netlink::wire::{Writer, message};

/// The nfnetlink family of nf_tables (NFNL_SUBSYS_NFTABLES), the high byte of its message types.
pub(super) const SUBSYSTEM: u16 = 10;

/// Message types (enum nf_tables_msg_types, linux/netfilter/nf_tables.h).
pub(super) mod msg {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const DELSET: u16 = 11;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const GETGEN: u16 = 16;
}

/// Attribute numbers (same file).
pub(super) mod attr {
    pub(crate) const TABLE_NAME: u16 = 1;
    pub(crate) const TABLE_FLAGS: u16 = 2;
    pub(crate) const TABLE_USERDATA: u16 = 6;
    pub(crate) const CHAIN_TABLE: u16 = 1;
    pub(crate) const CHAIN_NAME: u16 = 3;
    pub(crate) const CHAIN_HOOK: u16 = 4;
    pub(crate) const CHAIN_POLICY: u16 = 5;
    pub(crate) const CHAIN_TYPE: u16 = 7;
    pub(crate) const CHAIN_USERDATA: u16 = 12;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const HOOK_DEVICE: u16 = 3;
    pub(crate) const RULE_TABLE: u16 = 1;
    pub(crate) const RULE_CHAIN: u16 = 2;
    pub(crate) const RULE_HANDLE: u16 = 3;
    pub(crate) const RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const RULE_USERDATA: u16 = 7;
    pub(crate) const SET_TABLE: u16 = 1;
    pub(crate) const SET_NAME: u16 = 2;
    pub(crate) const SET_FLAGS: u16 = 3;
    pub(crate) const SET_KEY_TYPE: u16 = 4;
    pub(crate) const SET_KEY_LEN: u16 = 5;
    pub(crate) const SET_DATA_TYPE: u16 = 6;
    pub(crate) const SET_DATA_LEN: u16 = 7;
    pub(crate) const SET_DESC: u16 = 9;
    pub(crate) const SET_ID: u16 = 10;
    pub(crate) const SET_TIMEOUT: u16 = 11;
    pub(crate) const SET_USERDATA: u16 = 13;
    pub(crate) const ELEMENTS_TABLE: u16 = 1;
    pub(crate) const ELEMENTS_SET: u16 = 2;
    pub(crate) const ELEMENTS_LIST: u16 = 3;
    pub(crate) const GEN_ID: u16 = 1;
}

/// NFT_SET_* flags.
pub(super) mod set_flag {
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const CONCAT: u32 = 0x80;
}

/// NFT_DATA_VERDICT, the data type of verdict maps.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// The length `nft` gives a verdict (struct nft_verdict); the kernel has its own.
const VERDICT_LEN: u32 = 16;
/// NFTA_SET_DESC_CONCAT, NFTA_LIST_ELEM, NFTA_SET_FIELD_LEN.
const DESC_CONCAT: (u16, u16, u16) = (2, 1, 1);
/// NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END and NFNL_BATCH_GENID (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCL: u16 = libc::NLM_F_EXCL as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// Operations that [`Nft::commit`](super::Nft::commit) carries out in order, all or none.
///
/// `add_*` leaves an existing object as it is (`nft add`). `delete_*` of a missing object fails the whole batch.
/// `destroy_*` ignores a missing object (`nft destroy`), on every kernel with nf_tables. Deleting a chain deletes its
/// rules.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) ops: Vec<Op>,
    pub(super) generation: Option<u32>,
    deletes: bool,
    set_ids: u32,
}

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Op {
    /// The operation for errors, such as `add rule inet t c`.
    pub(super) what: String,
    /// The message; `None` if it could not be encoded.
    pub(super) bytes: Option<Vec<u8>>,
    /// Whether a missing object is a success.
    pub(super) absent_is_fine: bool,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether something is deleted or flushed. Closing the socket afterwards then takes 8 to 16 ms (see
    /// [`Nft`](super::Nft)).
    pub fn deletes(&self) -> bool {
        self.deletes
    }

    /// The operations as text, for logs.
    pub fn describe(&self) -> impl Iterator<Item = &str> {
        self.ops.iter().map(|op| op.what.as_str())
    }

    /// Makes the batch fail unless the namespace's rule set still has this generation
    /// ([`Nft::generation`](super::Nft::generation)).
    pub fn at_generation(mut self, generation: u32) -> Self {
        self.generation = Some(generation);
        self
    }

    /// `nft add table`
    pub fn add_table(&mut self, table: &Table) {
        let what = format!("add table {}", table.key);
        self.push(what, msg::NEWTABLE, CREATE, &table.key, |w| {
            w.text(attr::TABLE_NAME, &table.key.name);
            userdata_attr(w, attr::TABLE_USERDATA, &userdata::comment(table.comment.as_deref()));
        });
    }

    /// `nft add table` of a table that exists, so that it is no longer dormant.
    pub fn wake_table(&mut self, table: &TableKey) {
        self.push(format!("add table {table}"), msg::NEWTABLE, CREATE, table, |w| {
            w.text(attr::TABLE_NAME, &table.name);
            w.be32(attr::TABLE_FLAGS, 0);
        });
    }

    /// `nft delete table`, with everything in it.
    pub fn delete_table(&mut self, table: &TableKey) {
        let what = format!("delete table {table}");
        self.remove(what, msg::DELTABLE, table, |w| w.text(attr::TABLE_NAME, &table.name));
    }

    /// `nft destroy table`
    pub fn destroy_table(&mut self, table: &TableKey) {
        self.delete_table(table);
        self.pass_over_absent();
    }

    /// `nft flush table`: deletes the rules of all its chains. Chains, sets and elements stay.
    pub fn flush_table(&mut self, table: &TableKey) {
        let what = format!("flush table {table}");
        self.remove(what, msg::DELRULE, table, |w| w.text(attr::RULE_TABLE, &table.name));
    }

    /// `nft add chain`. For an existing chain it sets the policy.
    pub fn add_chain(&mut self, table: &TableKey, chain: &Chain) {
        self.put_chain(format!("add chain {table} {}", chain.name), CREATE, table, chain);
    }

    /// `nft create chain`: fails with EEXIST if it exists.
    pub fn create_chain(&mut self, table: &TableKey, chain: &Chain) {
        self.put_chain(format!("create chain {table} {}", chain.name), CREATE | EXCL, table, chain);
    }

    fn put_chain(&mut self, what: String, flags: u16, table: &TableKey, chain: &Chain) {
        self.push(what, msg::NEWCHAIN, flags, table, |w| {
            w.text(attr::CHAIN_TABLE, &table.name);
            w.text(attr::CHAIN_NAME, &chain.name);
            if let Some(base) = &chain.base {
                encode_base(w, table.family, base);
            }
            userdata_attr(w, attr::CHAIN_USERDATA, &userdata::comment(chain.comment.as_deref()));
        });
    }

    /// `nft flush chain`: deletes its rules.
    pub fn flush_chain(&mut self, table: &TableKey, chain: &str) {
        let what = format!("flush chain {table} {chain}");
        self.remove(what, msg::DELRULE, table, |w| {
            w.text(attr::RULE_TABLE, &table.name);
            w.text(attr::RULE_CHAIN, chain);
        });
    }

    /// `nft delete chain`, with its rules. Fails with EBUSY while a rule elsewhere jumps to it.
    pub fn delete_chain(&mut self, table: &TableKey, chain: &str) {
        let what = format!("delete chain {table} {chain}");
        self.remove(what, msg::DELCHAIN, table, |w| {
            w.text(attr::CHAIN_TABLE, &table.name);
            w.text(attr::CHAIN_NAME, chain);
        });
    }

    /// `nft destroy chain`
    pub fn destroy_chain(&mut self, table: &TableKey, chain: &str) {
        self.delete_chain(table, chain);
        self.pass_over_absent();
    }

    /// `nft add rule`: appends the rule to the chain.
    pub fn add_rule(&mut self, table: &TableKey, chain: &str, rule: &Rule) {
        self.put_rule(table, chain, rule, APPEND);
    }

    /// `nft insert rule`: puts the rule before the chain's other rules.
    pub fn insert_rule(&mut self, table: &TableKey, chain: &str, rule: &Rule) {
        self.put_rule(table, chain, rule, 0);
    }

    /// `nft --echo --handle add rule`: as [`Batch::add_rule`], and [`Nft::commit`](super::Nft::commit) returns its
    /// handle.
    pub fn add_rule_echoed(&mut self, table: &TableKey, chain: &str, rule: &Rule) {
        self.put_rule(table, chain, rule, APPEND | libc::NLM_F_ECHO as u16);
    }

    fn put_rule(&mut self, table: &TableKey, chain: &str, rule: &Rule, more: u16) {
        let what = format!("{} rule {table} {chain}", if more & APPEND == 0 { "insert" } else { "add" });
        self.push(what, msg::NEWRULE, CREATE | more, table, |w| {
            w.text(attr::RULE_TABLE, &table.name);
            w.text(attr::RULE_CHAIN, chain);
            w.nest(attr::RULE_EXPRESSIONS, |w| rule.exprs.iter().for_each(|e| e.encode(w)));
            userdata_attr(w, attr::RULE_USERDATA, &userdata::comment(rule.comment.as_deref()));
        });
    }

    /// `nft delete rule … handle HANDLE`
    pub fn delete_rule(&mut self, table: &TableKey, chain: &str, handle: u64) {
        let what = format!("delete rule {table} {chain} handle {handle}");
        self.remove(what, msg::DELRULE, table, |w| {
            w.text(attr::RULE_TABLE, &table.name);
            w.text(attr::RULE_CHAIN, chain);
            w.be64(attr::RULE_HANDLE, handle);
        });
    }

    /// `nft destroy rule … handle HANDLE`
    pub fn destroy_rule(&mut self, table: &TableKey, chain: &str, handle: u64) {
        self.delete_rule(table, chain, handle);
        self.pass_over_absent();
    }

    /// `nft add set`, `nft add map`
    pub fn add_set(&mut self, table: &TableKey, set: &Set) {
        let what = format!("add {} {table} {}", if set.data.is_some() { "map" } else { "set" }, set.name);
        self.set_ids += 1;
        let id = self.set_ids;
        self.push(what, msg::NEWSET, CREATE, table, |w| {
            w.text(attr::SET_TABLE, &table.name);
            encode_set(w, set, id);
        });
    }

    /// `nft delete set`, with its elements. Fails with EBUSY while a rule uses it.
    pub fn delete_set(&mut self, table: &TableKey, set: &str) {
        let what = format!("delete set {table} {set}");
        self.remove(what, msg::DELSET, table, |w| {
            w.text(attr::SET_TABLE, &table.name);
            w.text(attr::SET_NAME, set);
        });
    }

    /// `nft destroy set`
    pub fn destroy_set(&mut self, table: &TableKey, set: &str) {
        self.delete_set(table, set);
        self.pass_over_absent();
    }

    /// `nft flush set`: deletes all its elements.
    pub fn flush_set(&mut self, table: &TableKey, set: &str) {
        let what = format!("flush set {table} {set}");
        self.remove(what, msg::DELSETELEM, table, |w| {
            w.text(attr::ELEMENTS_TABLE, &table.name);
            w.text(attr::ELEMENTS_SET, set);
        });
    }

    /// `nft add element` for any number of elements. `set` must equal the set that was added.
    pub fn add_elements(&mut self, table: &TableKey, set: &Set, elements: &[Element]) {
        let what = format!("add elements {table} {}", set.name);
        for list in element::chunks(set, elements, true) {
            self.push_elements(&what, msg::NEWSETELEM, CREATE, (table, set), list);
        }
    }

    /// `nft create element`: fails with EEXIST if one of them exists, and with EBUSY if it has other data.
    pub fn create_elements(&mut self, table: &TableKey, set: &Set, elements: &[Element]) {
        let what = format!("create elements {table} {}", set.name);
        for list in element::chunks(set, elements, false) {
            self.push_elements(&what, msg::NEWSETELEM, CREATE | EXCL, (table, set), list);
        }
    }

    /// `nft delete element`. Only the keys of `elements` matter.
    pub fn delete_elements(&mut self, table: &TableKey, set: &Set, elements: &[Element]) {
        let what = format!("delete elements {table} {}", set.name);
        self.deletes = true;
        for list in element::chunks(set, elements, false) {
            self.push_elements(&what, msg::DELSETELEM, 0, (table, set), list);
        }
    }

    /// `nft destroy element`
    pub fn destroy_elements(&mut self, table: &TableKey, set: &Set, elements: &[Element]) {
        // a message fails as a whole, so each element has its own: missing ones can then be left out
        for element in elements {
            self.delete_elements(table, set, std::slice::from_ref(element));
            self.pass_over_absent();
        }
    }

    /// Puts the messages of all operations except `left_out` into one datagram. If `first` is the sequence number of
    /// its start, operation `n` has `first + 1 + n`. The kernel acknowledges `last`.
    pub(super) fn put(&self, client: &mut Client, left_out: &[usize], last: Option<usize>) {
        client.put_message(&envelope(BATCH_BEGIN, self.generation), 0);
        for (n, op) in self.ops.iter().enumerate() {
            if left_out.contains(&n) {
                client.skip(1);
            } else {
                let ack = if Some(n) == last { libc::NLM_F_ACK as u16 } else { 0 };
                client.put_message(op.bytes.as_deref().unwrap_or_default(), ack);
            }
        }
        client.put_message(&envelope(BATCH_END, None), 0);
    }

    fn push(&mut self, what: String, kind: u16, flags: u16, table: &TableKey, body: impl FnOnce(&mut Writer)) {
        let bytes = message(SUBSYSTEM << 8 | kind, flags, table.family.number(), 0, body);
        self.ops.push(Op { what, bytes, absent_is_fine: false });
    }

    fn remove(&mut self, what: String, kind: u16, table: &TableKey, body: impl FnOnce(&mut Writer)) {
        self.deletes = true;
        self.push(what, kind, 0, table, body);
    }

    fn push_elements(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        (table, set): (&TableKey, &Set),
        list: Option<Vec<u8>>,
    ) {
        self.push(what.to_owned(), kind, flags, table, |w| {
            w.text(attr::ELEMENTS_TABLE, &table.name);
            w.text(attr::ELEMENTS_SET, &set.name);
            w.nest(attr::ELEMENTS_LIST, |w| w.raw(list.as_deref().unwrap_or_default()));
        });
        if let (None, Some(op)) = (list, self.ops.last_mut()) {
            op.bytes = None;
        }
    }

    fn pass_over_absent(&mut self) {
        if let Some(op) = self.ops.last_mut() {
            op.absent_is_fine = true;
        }
    }
}

fn envelope(kind: u16, generation: Option<u32>) -> Vec<u8> {
    let body = |w: &mut Writer| {
        if let Some(generation) = generation {
            w.be32(BATCH_GENID, generation);
        }
    };
    message(kind, 0, 0, SUBSYSTEM, body).unwrap_or_default()
}

fn encode_base(w: &mut Writer, family: NftFamily, base: &Base) {
    w.text(attr::CHAIN_TYPE, base.kind.name());
    w.nest(attr::CHAIN_HOOK, |w| {
        w.be32(attr::HOOK_NUMBER, base.hook.number(family));
        w.be32(attr::HOOK_PRIORITY, base.priority as u32);
        if let Some(device) = &base.device {
            w.text(attr::HOOK_DEVICE, device.as_str());
        }
    });
    // NF_DROP 0, NF_ACCEPT 1
    w.be32(attr::CHAIN_POLICY, (base.policy == Policy::Accept).into());
}

fn encode_set(w: &mut Writer, set: &Set, id: u32) {
    let ranged_concat = set.interval && !set.start_and_end();
    let flags = [
        (set.interval, set_flag::INTERVAL),
        (set.data.is_some(), set_flag::MAP),
        (set.timeout != Timeout::Never, set_flag::TIMEOUT),
        (ranged_concat, set_flag::CONCAT),
    ];
    w.text(attr::SET_NAME, &set.name);
    w.be32(attr::SET_FLAGS, flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum());
    w.be32(attr::SET_KEY_TYPE, Type::concat_id(&set.key));
    w.be32(attr::SET_KEY_LEN, Type::concat_len(&set.key) as u32);
    let data = set.data.as_ref().map(|data| match data {
        DataType::Verdict => (DATA_VERDICT, VERDICT_LEN),
        DataType::Values(types) => (Type::concat_id(types), Type::concat_len(types) as u32),
    });
    if let Some((id, len)) = data {
        w.be32(attr::SET_DATA_TYPE, id);
        w.be32(attr::SET_DATA_LEN, len);
    }
    w.be32(attr::SET_ID, id);
    if let Timeout::Default(time) = set.timeout {
        w.be64(attr::SET_TIMEOUT, element::millis(time));
    }
    if ranged_concat {
        let (concat, field, len) = DESC_CONCAT;
        w.nest(attr::SET_DESC, |w| {
            w.nest(concat, |w| set.key.iter().for_each(|t| w.nest(field, |w| w.be32(len, t.size() as u32))));
        });
    }
    let host_order = matches!(set.key[..], [one] if one.host_order());
    userdata_attr(w, attr::SET_USERDATA, &userdata::set(host_order, set.comment.as_deref()));
}

fn userdata_attr(w: &mut Writer, kind: u16, userdata: &[u8]) {
    if !userdata.is_empty() {
        w.attr(kind, userdata);
    }
}
