use super::*;

#[test]
fn only_a_prefix_with_room_for_it_has_a_broadcast_address() {
    let dev = IfName::new("eth0").unwrap();
    for (net, broadcast) in [
        ("10.5.1.7/24", Some("10.5.1.255")),
        ("10.5.1.1/30", Some("10.5.1.3")),
        ("10.5.1.1/31", None),
        ("10.5.1.1/32", None),
        ("fd05::1/64", None),
    ] {
        let mut state = State::default();
        state.address(&dev, net.parse().unwrap(), true);
        let key = AddressKey { dev: dev.clone(), net: net.parse().unwrap() };
        let how = Address { nodad: true, noprefixroute: false, broadcast: broadcast.map(|addr| addr.parse().unwrap()) };
        assert_eq!(state.addresses, [(key, how)].into(), "{net}");
    }
}

/// A public key is told to everybody, and named in logs as `wg show` names it.
#[test]
fn a_public_key_is_shown_as_text() {
    let key = PublicKey([0xff; 32]);
    assert_eq!(format!("{key:?}"), "//////////////////////////////////////////8=");
}
