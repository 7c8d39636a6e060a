//! Messages that etcdctl 3.4 and etcd 3.4 exchanged, recorded by a proxy between them.

use prost::Message;

use super::*;

const LEASE: i64 = 0x694d_a212_1851_4306;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[track_caller]
fn is_sent<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, hex: &str) {
    assert_eq!(message.encode_to_vec(), unhex(hex), "{message:?}");
    assert_eq!(M::decode(unhex(hex).as_slice()).unwrap(), message);
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 14841639068965178418, member_id: 10276657743932975437, revision })
}

fn attached() -> KeyValue {
    KeyValue {
        key: b"/n/subnets/10.5.1.0-24".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        value: br#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#.into(),
        lease: LEASE,
    }
}

#[test]
fn questions() {
    is_sent(LeaseGrantRequest { ttl: 86_400, id: 0 }, "0880a305");
    let put = PutRequest { key: attached().key, value: attached().value, lease: LEASE };
    is_sent(
        put,
        "0a162f6e2f7375626e6574732f31302e352e312e302d3234122a7b225075626c69634950223a223139322e302e322e31222c2250\
         75626c696349507636223a6e756c6c7d188686c5c2a1c2e8a669",
    );
    let all = RangeRequest { key: b"/n/".into(), range_end: b"/n0".into(), ..RangeRequest::default() };
    is_sent(all, "0a032f6e2f12032f6e30");
    let some = RangeRequest { key: b"/n/k".into(), range_end: vec![], limit: 500, revision: 1, keys_only: true };
    is_sent(some, "0a042f6e2f6b18f40320014001");
    is_sent(DeleteRangeRequest { key: b"/n/k".into(), range_end: vec![] }, "0a042f6e2f6b");
    is_sent(LeaseKeepAliveRequest { id: LEASE }, "088686c5c2a1c2e8a669");
    is_sent(LeaseRevokeRequest { id: LEASE }, "088686c5c2a1c2e8a669");
    is_sent(AuthenticateRequest { name: "root".into(), password: "secret".into() }, "0a04726f6f741206736563726574");
    let create = WatchCreateRequest {
        key: b"/n/".into(),
        range_end: b"/n0".into(),
        start_revision: 2,
        progress_notify: false,
        fragment: false,
    };
    is_sent(WatchRequest { ask: Some(WatchAsk::Create(create)) }, "0a0c0a032f6e2f12032f6e301802");
}

fn step(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[test]
fn transactions() {
    let version = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: b"/n/v".into(),
        with: Some(CompareWith::Version(0)),
    };
    let put = PutRequest { key: b"/n/k".into(), value: b"new".into(), lease: 0 };
    let range = RangeRequest { key: b"/n/k".into(), ..RangeRequest::default() };
    let delete = DeleteRangeRequest { key: b"/n/x".into(), range_end: vec![] };
    let steps = [Request::Put(put.clone()), Request::Range(range), Request::DeleteRange(delete)];
    is_sent(
        TxnRequest { compare: vec![version], success: steps.map(step).to_vec(), failure: vec![] },
        "0a081a042f6e2f762000120d120b0a042f6e2f6b12036e657712080a060a042f6e2f6b12081a060a042f6e2f78",
    );
    let value = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: b"/n/k".into(),
        with: Some(CompareWith::Value(b"old".into())),
    };
    let put = step(Request::Put(PutRequest { lease: 0x1a2b, ..put }));
    is_sent(
        TxnRequest { compare: vec![value], success: vec![put], failure: vec![] },
        "0a0d10031a042f6e2f6b3a036f6c641210120e0a042f6e2f6b12036e657718ab34",
    );
}

#[track_caller]
fn is_read<M: Message + Default + PartialEq + std::fmt::Debug>(hex: &str, message: M) {
    assert_eq!(M::decode(unhex(hex).as_slice()).unwrap(), message);
}

#[test]
fn answers() {
    const HEAD: &str = "0a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e01180";
    let ttl = 86_400;
    is_read(
        &format!("{HEAD}12002108686c5c2a1c2e8a6691880a305"),
        LeaseGrantResponse { header: header(1), id: LEASE, ttl },
    );
    is_read(
        "0a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e0118022002108686c5c2a1c2e8a6691880a305",
        LeaseKeepAliveResponse { header: header(2), id: LEASE, ttl },
    );
    // the answer for a lease that is gone
    is_read(
        &format!("{HEAD}52002108686c5c2a1c2e8a669"),
        LeaseKeepAliveResponse { header: header(5), id: LEASE, ttl: 0 },
    );
    is_read(
        &format!(
            "{HEAD}2200212540a162f6e2f7375626e6574732f31302e352e312e302d32341002180220012a2a7b225075626c69634950223a\
             223139322e302e322e31222c225075626c696349507636223a6e756c6c7d308686c5c2a1c2e8a6692001"
        ),
        RangeResponse { header: header(2), kvs: vec![attached()], more: false },
    );
    let txn = format!(
        "{HEAD}3200210011a0612040a0218031a1b0a190a02180312110a042f6e2f6b1003180320012a036e657720011a061a040a021803"
    );
    let txn = TxnResponse::decode(unhex(&txn).as_slice()).unwrap();
    assert!(txn.succeeded);
    let [put, range, delete] = &txn.responses[..] else { panic!("{txn:?}") };
    assert!(
        matches!(put.response, Some(Response::Put(_))) && matches!(delete.response, Some(Response::DeleteRange(_)))
    );
    assert!(matches!(&range.response, Some(Response::Range(range)) if range.kvs[0].value == b"new"), "{range:?}");
}

#[test]
fn what_a_watch_tells() {
    const HEAD: &str = "0a1a08b298eaf1948386fccd0110cdd2918bd2b881cf8e01180";
    let watch = |hex: String| WatchResponse::decode(unhex(&hex).as_slice()).unwrap();
    let created = watch(format!("{HEAD}320021801"));
    assert!(created.created && !created.canceled && created.events.is_empty());
    let put = watch(format!(
        "{HEAD}320025a5612540a162f6e2f7375626e6574732f31302e352e312e302d32341002180220012a2a7b225075626c69634950223a\
         223139322e302e322e31222c225075626c696349507636223a6e756c6c7d308686c5c2a1c2e8a6695a1312110a042f6e2f6b100318\
         0320012a036e6577"
    ));
    assert_eq!((put.events.len(), put.events[0].r#type()), (2, EventType::Put));
    assert_eq!(put.events[0].kv, Some(attached()));
    let delete = watch(format!("{HEAD}420025a0c080112080a042f6e2f6b1804"));
    assert_eq!((delete.events[0].r#type(), delete.header), (EventType::Delete, header(4)));
    let compacted = watch("0a1808b298eaf1948386fccd0110cdd2918bd2b881cf8e01200220012803".into());
    assert!(compacted.canceled && compacted.compact_revision == 3 && compacted.cancel_reason.is_empty());
}

#[test]
fn what_is_said_of_oneself_is_not_printed() {
    let ask = AuthenticateRequest { name: "root".into(), password: "hunter2".into() };
    let answer = AuthenticateResponse { header: None, token: "hunter2.7".into() };
    assert!(!format!("{ask:?} {answer:?}").contains("hunter2"));
}
