//! The real API server gives the answers of the table that the double is held to.

use std::cell::RefCell;
use std::rc::Rc;

use lab::topology::Topology;
use lab::wait::eventually;
use lab::world::World;
use serde_json::{Value, json};
use tests::apiserver::cases::{READS, Server};

use crate::Outcome;
use crate::control::{Control, PATIENCE};

pub fn the_real_server_answers_as_the_table_says() -> Outcome {
    let world = Rc::new(World::build(Topology::flat(1))?);
    let control = Control::start(&world, 1, &[])?;
    let verbs = READS.map(|may| may.split(' ').next().unwrap_or_default());
    let rules = json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": verbs }]);
    control.allow(&world, "reader", &json!({ "kind": "User", "name": "reader" }), &rules)?;
    let allowed = json!({ "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {
        "user": "reader", "resourceAttributes": { "verb": "watch", "resource": "nodes" },
    } });
    let review = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    eventually("the reader may watch", PATIENCE, || match control.done(&world, "POST", review, &allowed) {
        Ok(answer) if answer["status"]["allowed"] == Value::Bool(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let (url, ca) = (control.url(), control.authority.certificate());
    let (forgetful, control) = (world.clone(), RefCell::new(control));
    let forget = Box::new(move || control.borrow_mut().forget(&forgetful));
    let server = Server::new(&url, Some(&ca), forget)?;
    world.host(1)?.enter(|| server.check())?
}
