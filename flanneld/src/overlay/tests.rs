use std::time::Duration;

use kernel::diff::{Conflict, Step};
use kernel::state::{Link, LinkKind};
use kernel::types::IfName;
use kernel::{Errno, KernelError, Outcome};
use tokio::time::Instant;

use super::Due;
use super::kernel::Applied;

#[test]
fn peers_are_invited_only_to_devices_that_are_there() {
    let dev = IfName::new("flannel.1").unwrap();
    let error = KernelError::new("x", Errno(1));
    let failed = |step: Step| Applied {
        outcome: Outcome { failed: vec![(step, error.clone())], ..Outcome::default() },
        ..Applied::default()
    };
    assert!(Applied::default().ready() && Applied::default().trouble().is_none());
    assert!(!failed(Step::CreateLink(dev.clone(), Link::up(LinkKind::Loopback))).ready());
    assert!(failed(Step::DeleteLink(dev.clone())).ready(), "what is left over is in nobody's way");
    assert!(failed(Step::WriteSysctl("a".into(), "b".into())).ready());
    let (wanted, found) = (LinkKind::Loopback, LinkKind::Other("dummy".into()));
    let conflict = Conflict::Link { name: dev, wanted, found };
    let blocked = Applied {
        outcome: Outcome { conflicts: vec![conflict.clone(), conflict], ..Outcome::default() },
        ..Applied::default()
    };
    assert!(!blocked.ready());
    let trouble = blocked.trouble().unwrap();
    assert!(trouble.contains("flannel.1 is a link of kind dummy") && trouble.ends_with("(and 1 more)"), "{trouble}");
}

#[test]
fn the_earliest_time_counts() {
    let (mut due, now) = (Due::default(), Instant::now());
    for seconds in [5, 3, 9] {
        due.by(now + Duration::from_secs(seconds));
    }
    assert_eq!(due.at, Some(now + Duration::from_secs(3)));
}
