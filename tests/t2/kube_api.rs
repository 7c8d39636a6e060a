//! The double of the API server gives the answers of the table that also runs against a real one (t3).

use std::net::TcpListener;
use std::sync::Arc;

use lab::topology::Topology;
use lab::world::World;
use tests::apiserver::cases::{Server, users};
use tests::apiserver::tls::{Authority, identity};
use tests::apiserver::{Apiserver, Objects, Streaming};

use crate::Outcome;

pub fn the_double_answers_as_the_real_server() -> Outcome {
    let world = World::build(Topology::flat(1))?;
    world.host(1)?.enter(|| {
        let authority = Authority::make("/run/lab/kube/pki".as_ref(), "cluster")?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let api = Arc::new(Apiserver::start(listener, Objects::default())?);
        api.identify(Some(identity(&authority.sign("apiserver", &["127.0.0.1"])?)?));
        api.faults(|faults| {
            faults.users = users();
            // as the real server, which is older than lists as watches
            faults.streaming = Streaming::Forbidden;
        });
        let forgetful = api.clone();
        let forget = move || {
            forgetful.objects(|all| all.compact());
            Ok(())
        };
        Server::new(&api.url(), Some(&authority.certificate()), Box::new(forget))?.check()
    })?
}
