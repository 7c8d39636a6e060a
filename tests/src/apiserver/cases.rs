//! What an API server answers: one table, for the double and for a real server. The double is right where the real one
//! gives the same answers.

use std::cell::Cell;
use std::path::Path;

use serde_json::{Value, json};

use super::User;
use super::client::{Caller, kubeconfig};

type Failure = Box<dyn std::error::Error>;
type Outcome = Result<(), Failure>;

const NODES: &str = "/api/v1/nodes";
const ADMIN: &str = "admin-token";
const READER: &str = "reader-token";
const NOBODY: &str = "nobody-token";
const STRANGER: &str = "token-of-another-cluster";

/// What the user `reader` may do.
pub const READS: [&str; 3] = ["get nodes", "list nodes", "watch nodes"];

/// A server of the table, and its users.
pub struct Server {
    admin: Caller,
    /// The administrator, while the other one watches.
    second: Caller,
    reader: Caller,
    nobody: Caller,
    stranger: Caller,
    /// Makes the server forget all versions before the current one.
    forget: Box<dyn Fn() -> Outcome>,
}

/// The users that a server must have: the first may do everything, the others what their rules say.
pub fn users() -> Vec<User> {
    let user = |token: &str, name: &str, may: &[&str]| User {
        token: token.into(),
        name: name.into(),
        may: may.iter().map(|may| (*may).to_owned()).collect(),
    };
    vec![user(ADMIN, "admin", &["*"]), user(READER, "reader", &READS), user(NOBODY, "nobody", &[])]
}

impl Server {
    /// The server at `url`, whose authority is in the file `ca`.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(url: &str, ca: Option<&Path>, forget: Box<dyn Fn() -> Outcome>) -> Result<Self, Failure> {
        let caller = |token: &str| Caller::new(&kubeconfig(url, ca, token));
        let (admin, reader) = (caller(ADMIN)?, caller(READER)?);
        Ok(Self { admin, second: caller(ADMIN)?, reader, nobody: caller(NOBODY)?, stranger: caller(STRANGER)?, forget })
    }

    /// Runs all cases. The error names those that fail.
    ///
    /// # Errors
    /// A case fails.
    pub fn check(&self) -> Outcome {
        let mut failed = Vec::new();
        for (name, case) in CASES {
            if let Err(error) = self.wipe().and_then(|()| case(self)) {
                failed.push(format!("{name}: {error}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
    }

    fn wipe(&self) -> Outcome {
        let all = self.admin.done("GET", NODES, &Value::Null)?;
        for node in all["items"].as_array().into_iter().flatten() {
            self.admin.done("DELETE", &format!("{NODES}/{}", text(&node["metadata"]["name"])), &Value::Null)?;
        }
        Ok(())
    }

    fn create(&self, name: &str) -> Result<Value, Failure> {
        let node = json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": name } });
        self.admin.done("POST", NODES, &node)
    }

    fn patch(&self, name: &str, patch: &Value) -> Result<Value, Failure> {
        self.admin.done("PATCH", &format!("{NODES}/{name}/status"), patch)
    }

    fn annotate(&self, name: &str, value: &str) -> Result<Value, Failure> {
        self.patch(name, &json!({ "metadata": { "annotations": { "k": value } } }))
    }

    fn list(&self, query: &str) -> Result<Value, Failure> {
        self.admin.done("GET", &format!("{NODES}?{query}"), &Value::Null)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn version(object: &Value) -> Result<u64, Failure> {
    Ok(text(&object["metadata"]["resourceVersion"]).parse()?)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().map(|node| text(&node["metadata"]["name"])).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, right: T) -> Outcome {
    if seen == right { Ok(()) } else { Err(format!("{what}: {seen:?}, not {right:?}").into()) }
}

/// An answer that is an error of this code and reason, with these words.
fn fails((code, object): (u16, Value), right: (u16, &str), words: &str) -> Outcome {
    same("the status", (code, text(&object["reason"])), right)?;
    same("its object", (text(&object["kind"]), text(&object["status"])), ("Status", "Failure"))?;
    same("the code in it", object["code"].as_u64(), Some(right.0.into()))?;
    let message = text(&object["message"]);
    if message.contains(words) { Ok(()) } else { Err(format!("{message:?}, not {words:?}").into()) }
}

fn kinds(events: &[Value]) -> Vec<(&str, &str)> {
    events.iter().map(|event| (text(&event["type"]), text(&event["object"]["metadata"]["name"]))).collect()
}

type Case = (&'static str, fn(&Server) -> Outcome);

/// The table.
const CASES: &[Case] = &[
    ("the pages of a list are of one version", pages_are_of_one_version),
    ("a list from the cache is whole", a_cached_list_is_whole),
    ("the items of a list have no kind", items_have_no_kind),
    ("a watch goes on after a version", a_watch_goes_on),
    ("a watch without a version begins with all", a_watch_begins_with_all),
    ("bookmarks come to those who ask", bookmarks_come),
    ("a watch from a forgotten version is gone", a_forgotten_version_is_gone),
    ("the next page of a forgotten list is gone", a_forgotten_page_is_gone),
    ("a list as a watch is refused", a_streaming_list_is_refused),
    ("a patch merges annotations, and conditions by type", a_patch_merges),
    ("a patch of nothing makes no version", a_patch_of_nothing),
    ("a patch of the status leaves the spec", a_patch_leaves_the_spec),
    ("a merge patch replaces lists", a_merge_patch_replaces_lists),
    ("a patch that cannot be applied is refused", wrong_patches),
    ("what does not exist is not found", what_does_not_exist),
    ("what exists is not created", what_exists),
    ("a token that is not known is refused", an_unknown_token),
    ("a user without the right is refused, by verb and resource", without_the_right),
    ("a pod names its node", a_pod_names_its_node),
];

fn pages_are_of_one_version(server: &Server) -> Outcome {
    for name in ["a", "b", "d", "e", "f"] {
        server.create(name)?;
    }
    let first = server.list("limit=2")?;
    same("the first page", names(&first), vec!["a", "b"])?;
    server.create("c")?;
    server.annotate("e", "later")?;
    let next = |page: &Value| format!("limit=2&continue={}", text(&page["metadata"]["continue"]));
    let second = server.list(&next(&first))?;
    same("the second page", names(&second), vec!["d", "e"])?;
    same("a later change", second["items"][1]["metadata"]["annotations"].get("k"), None)?;
    let third = server.list(&next(&second))?;
    same("the last page", names(&third), vec!["f"])?;
    same("a page after it", text(&third["metadata"]["continue"]), "")?;
    same("the versions", [version(&second)?, version(&third)?], [version(&first)?; 2])
}

fn a_cached_list_is_whole(server: &Server) -> Outcome {
    for name in ["a", "b", "c"] {
        server.create(name)?;
    }
    // the cache may be a moment late
    let last = version(&server.annotate("c", "1")?)?;
    server.admin.watch(&format!("resourceVersion={}&timeoutSeconds=20", last - 1), |_| true)?;
    let list = server.list("limit=1&resourceVersion=0")?;
    // the cache has no order
    let mut all = names(&list);
    all.sort_unstable();
    same("the names", all, vec!["a", "b", "c"])?;
    same("a page after it", text(&list["metadata"]["continue"]), "")
}

fn items_have_no_kind(server: &Server) -> Outcome {
    server.create("a")?;
    let list = server.list("limit=10")?;
    same("the list", (text(&list["kind"]), text(&list["apiVersion"])), ("NodeList", "v1"))?;
    same("its item", list["items"][0].get("kind"), None)?;
    let alone = server.admin.done("GET", "/api/v1/nodes/a", &Value::Null)?;
    same("the node alone", (text(&alone["kind"]), text(&alone["apiVersion"])), ("Node", "v1"))
}

fn a_watch_goes_on(server: &Server) -> Outcome {
    let start = version(&server.create("a")?)?;
    server.annotate("a", "1")?;
    server.create("b")?;
    server.admin.done("DELETE", "/api/v1/nodes/a", &Value::Null)?;
    let query = format!("resourceVersion={start}&timeoutSeconds=20");
    let events = server.admin.watch(&query, |event| event["type"] == "DELETED")?;
    same("the events", kinds(&events), vec![("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")])?;
    same("the change", text(&events[0]["object"]["metadata"]["annotations"]["k"]), "1")?;
    let mut before = start;
    for event in &events {
        same("an object's kind", text(&event["object"]["kind"]), "Node")?;
        let version = version(&event["object"])?;
        same("the versions grow", version > before, true)?;
        before = version;
    }
    Ok(())
}

fn a_watch_begins_with_all(server: &Server) -> Outcome {
    server.create("a")?;
    server.create("b")?;
    for query in ["timeoutSeconds=20", "timeoutSeconds=20&resourceVersion=0"] {
        let seen = Cell::new(0);
        let second = |_: &Value| seen.replace(seen.get() + 1) == 1;
        let events = server.admin.watch(query, second)?;
        // the cache has no order
        let mut all = kinds(&events);
        all.sort_unstable();
        same(query, all, vec![("ADDED", "a"), ("ADDED", "b")])?;
    }
    Ok(())
}

fn bookmarks_come(server: &Server) -> Outcome {
    let start = version(&server.create("a")?)?;
    server.annotate("a", "1")?;
    let query = format!("resourceVersion={start}&timeoutSeconds=5");
    let events = server.admin.watch(&query, |_| false)?;
    same("those who do not ask", kinds(&events), vec![("MODIFIED", "a")])?;
    // a server of 1.20 sends none to a watch without a change since its start
    let (second, path) = (&server.second, format!("{NODES}/a/status"));
    let two = json!({ "metadata": { "annotations": { "k": "2" } } });
    let change = |event: &Value| {
        if event["object"]["metadata"]["annotations"]["k"] == "1" {
            std::thread::scope(|scope| scope.spawn(|| second.done("PATCH", &path, &two).is_ok()).join().ok());
        }
        false
    };
    let events = server.admin.watch(&format!("{query}&allowWatchBookmarks=true"), change)?;
    let [_, changed, mark, ..] = events.as_slice() else { return Err(format!("no bookmark: {events:?}").into()) };
    same("the event", (text(&mark["type"]), text(&mark["object"]["kind"])), ("BOOKMARK", "Node"))?;
    same("its version", version(&mark["object"])? >= version(&changed["object"])?, true)
}

fn a_forgotten_version_is_gone(server: &Server) -> Outcome {
    server.create("a")?;
    (server.forget)()?;
    let events = server.admin.watch("resourceVersion=1&timeoutSeconds=20", |_| true)?;
    let [event] = events.as_slice() else { return Err(format!("{events:?}").into()) };
    same("the event", text(&event["type"]), "ERROR")?;
    fails((410, event["object"].clone()), (410, "Expired"), "too old resource version: 1")
}

fn a_forgotten_page_is_gone(server: &Server) -> Outcome {
    for name in ["a", "b", "c"] {
        server.create(name)?;
    }
    let first = server.list("limit=1")?;
    server.annotate("c", "1")?;
    (server.forget)()?;
    let next = format!("{NODES}?limit=1&continue={}", text(&first["metadata"]["continue"]));
    fails(server.admin.call("GET", &next, &Value::Null)?, (410, "Expired"), "continue parameter is too old")
}

fn a_streaming_list_is_refused(server: &Server) -> Outcome {
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let answer = server.admin.call("GET", &format!("{NODES}?{query}"), &Value::Null)?;
    fails(answer, (422, "Invalid"), "resourceVersionMatch is forbidden for watch")
}

fn condition(kind: &str, status: &str) -> Value {
    json!({ "status": { "conditions": [{
        "type": kind, "status": status, "reason": "Test", "message": "m",
        "lastHeartbeatTime": "2026-11-27T20:00:00Z", "lastTransitionTime": "2026-11-27T20:00:00Z",
    }] } })
}

fn conditions(node: &Value) -> Vec<(&str, &str)> {
    let all = node["status"]["conditions"].as_array().into_iter().flatten();
    let mut all: Vec<_> = all.map(|one| (text(&one["type"]), text(&one["status"]))).collect();
    all.sort_unstable();
    all
}

fn a_patch_merges(server: &Server) -> Outcome {
    server.create("a")?;
    server.patch("a", &json!({ "metadata": { "annotations": { "one": "1", "two": "2" } } }))?;
    server.patch("a", &condition("Ready", "True"))?;
    server.patch("a", &condition("NetworkUnavailable", "True"))?;
    server.patch("a", &json!({ "metadata": { "annotations": { "one": null, "three": "3" } } }))?;
    let node = server.patch("a", &condition("NetworkUnavailable", "False"))?;
    same("conditions", conditions(&node), vec![("NetworkUnavailable", "False"), ("Ready", "True")])?;
    same("annotations", &node["metadata"]["annotations"], &json!({ "two": "2", "three": "3" }))?;
    let alone = server.admin.done("GET", "/api/v1/nodes/a", &Value::Null)?;
    same("the answer is the node", version(&node)?, version(&alone)?)
}

fn a_patch_of_nothing(server: &Server) -> Outcome {
    server.create("a")?;
    let before = version(&server.annotate("a", "1")?)?;
    same("the version", version(&server.annotate("a", "1")?)?, before)
}

fn a_patch_leaves_the_spec(server: &Server) -> Outcome {
    server.create("a")?;
    let node = server.patch("a", &json!({ "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] } }))?;
    same("the subnet", node["spec"].get("podCIDR"), None)?;
    let spec = json!({ "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] } });
    let node = server.admin.done("PATCH", "/api/v1/nodes/a", &spec)?;
    same("the subnet of the node itself", text(&node["spec"]["podCIDR"]), "10.244.1.0/24")
}

fn a_merge_patch_replaces_lists(server: &Server) -> Outcome {
    server.create("a")?;
    server.patch("a", &condition("Ready", "True"))?;
    let (path, merge) = ("/api/v1/nodes/a/status", "application/merge-patch+json");
    let answer = server.admin.call_with("PATCH", path, merge, &condition("NetworkUnavailable", "False"))?;
    same("the status", answer.0, 200)?;
    same("conditions", conditions(&answer.1), vec![("NetworkUnavailable", "False")])
}

fn wrong_patches(server: &Server) -> Outcome {
    let old = version(&server.create("a")?)?;
    server.annotate("a", "1")?;
    let path = "/api/v1/nodes/a/status";
    let stale = json!({ "metadata": { "resourceVersion": old.to_string(), "annotations": { "k": "2" } } });
    fails(server.admin.call("PATCH", path, &stale)?, (409, "Conflict"), "the object has been modified")?;
    let long = json!({ "metadata": { "annotations": { "k": "x".repeat(1 << 20) } } });
    fails(server.admin.call("PATCH", path, &long)?, (422, "Invalid"), "metadata.annotations: Too long")?;
    let answer = server.admin.call_with("PATCH", path, "application/json", &stale)?;
    fails(answer, (415, "UnsupportedMediaType"), "415: Unsupported Media Type")?;
    let node = server.admin.done("GET", "/api/v1/nodes/a", &Value::Null)?;
    same("the annotation", text(&node["metadata"]["annotations"]["k"]), "1")
}

fn what_does_not_exist(server: &Server) -> Outcome {
    let words = "nodes \"none\" not found";
    let right = (404, "NotFound");
    fails(server.admin.call("GET", "/api/v1/nodes/none", &Value::Null)?, right, words)?;
    fails(server.admin.call("DELETE", "/api/v1/nodes/none", &Value::Null)?, right, words)?;
    fails(server.admin.call("PATCH", "/api/v1/nodes/none/status", &condition("Ready", "True"))?, right, words)?;
    let words = "the server could not find the requested resource";
    fails(server.admin.call("GET", "/api/v1/subnets", &Value::Null)?, right, words)
}

fn what_exists(server: &Server) -> Outcome {
    server.create("a")?;
    let node = json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": "a" } });
    fails(server.admin.call("POST", NODES, &node)?, (409, "AlreadyExists"), "nodes \"a\" already exists")
}

fn an_unknown_token(server: &Server) -> Outcome {
    for path in [NODES, "/api/v1/nodes/a"] {
        fails(server.stranger.call("GET", path, &Value::Null)?, (401, "Unauthorized"), "Unauthorized")?;
    }
    Ok(())
}

fn without_the_right(server: &Server) -> Outcome {
    server.create("a")?;
    let right = (403, "Forbidden");
    let words = |object: &str, verb: &str, resource: &str, user: &str| {
        format!(
            "{object} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"\" at the cluster scope"
        )
    };
    let (one, status) = ("/api/v1/nodes/a", "/api/v1/nodes/a/status");
    let list = words("nodes", "list", "nodes", "nobody");
    fails(server.nobody.call("GET", NODES, &Value::Null)?, right, &list)?;
    let watch = words("nodes", "watch", "nodes", "nobody");
    fails(server.nobody.call("GET", &format!("{NODES}?watch=true"), &Value::Null)?, right, &watch)?;
    let get = words("nodes \"a\"", "get", "nodes", "nobody");
    fails(server.nobody.call("GET", one, &Value::Null)?, right, &get)?;
    let patch = words("nodes \"a\"", "patch", "nodes/status", "reader");
    fails(server.reader.call("PATCH", status, &condition("Ready", "True"))?, right, &patch)?;
    let pod = "pods \"p\" is forbidden: User \"reader\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\"";
    fails(server.reader.call("GET", "/api/v1/namespaces/default/pods/p", &Value::Null)?, right, pod)?;
    same("what the reader may read", names(&server.reader.done("GET", NODES, &Value::Null)?), vec!["a"])
}

fn a_pod_names_its_node(server: &Server) -> Outcome {
    server.create("a")?;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "p", "namespace": "default" },
        "spec": { "nodeName": "a", "containers": [{ "name": "c", "image": "localhost/pause:1" }] },
    });
    server.admin.done("POST", pods, &pod)?;
    let pod = server.admin.done("GET", &format!("{pods}/p"), &Value::Null)?;
    same("its node", text(&pod["spec"]["nodeName"]), "a")?;
    let answer = server.admin.call("GET", &format!("{pods}/q"), &Value::Null)?;
    fails(answer, (404, "NotFound"), "pods \"q\" not found")
}
