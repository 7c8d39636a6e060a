use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Sample {
    name: String,
    mtu: i32,
    #[serde(rename = "isGateway")]
    is_gateway: bool,
    gw: Ip,
    dst: Option<Cidr>,
    ipam: Json,
    sysctl: BTreeMap<String, String>,
    list: Vec<Inner>,
    burst: u64,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Inner {
    sub: u8,
}

fn read(text: &str) -> Sample {
    decode(text.as_bytes()).unwrap()
}

fn fail(text: &str) -> String {
    decode::<Sample>(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn keys_match_in_any_case() {
    for key in ["isGateway", "isgateway", "ISGATEWAY", "IsGateWay", "i\u{17f}Gateway"] {
        assert!(read(&format!("{{\"{key}\": true}}")).is_gateway, "{key}");
    }
    assert!(!read(r#"{"is_gateway": true, "isGateways": true}"#).is_gateway);
    assert!(same_key("\u{212a}ey", "KEY"));
    assert!(!same_key("key", "keys"));
}

#[test]
fn the_last_duplicate_wins_whatever_its_case() {
    assert_eq!(read(r#"{"mtu": 1, "MTU": 2}"#).mtu, 2);
    assert_eq!(read(r#"{"MTU": 2, "mtu": 1}"#).mtu, 1);
    assert_eq!(read(r#"{"list": [{"SUB": 1, "sub": 7}]}"#).list, [Inner { sub: 7 }]);
}

#[test]
fn null_leaves_the_default() {
    assert_eq!(read(r#"{"name": null, "mtu": null, "gw": null, "dst": null, "ipam": null, "list": null}"#), read("{}"));
    assert_eq!(read("null"), Sample::default());
    assert_eq!(read(r#"{"mtu": 5, "mtu": null}"#).mtu, 5);
    assert_eq!(read(r#"{"list": [null]}"#).list, [Inner { sub: 0 }]);
    assert_eq!(read(r#"{"sysctl": {"a": null}}"#).sysctl["a"], "");
}

#[test]
fn nothing_is_coerced() {
    assert_eq!(fail(r#"{"mtu": "1500"}"#), "mtu: invalid type: string \"1500\", expected i32");
    assert_eq!(fail(r#"{"mtu": 1500.0}"#), "mtu: invalid type: floating point `1500.0`, expected i32");
    assert!(fail(r#"{"mtu": 1e3}"#).contains("floating point"));
    assert!(fail(r#"{"mtu": 3000000000}"#).contains("3000000000"));
    assert!(fail(r#"{"burst": -1}"#).contains("integer `-1`"));
    assert!(fail(r#"{"isGateway": "true"}"#).contains("expected a boolean"));
    assert!(fail(r#"{"name": 5}"#).contains("expected a string"));
    assert_eq!(fail(r#"{"list": [{}, {"sub": 300}]}"#), "list[1].sub: invalid value: integer `300`, expected u8");
    assert!(fail(r#"{"list": [[1]]}"#).starts_with("list[0]: invalid type: array, expected struct Inner"));
    assert!(fail("[]").contains("expected struct Sample"));
    assert!(fail(r#"{"sysctl": []}"#).contains("sysctl: invalid type: sequence"));
    assert_eq!(read(r#"{"burst": 18446744073709551615}"#).burst, u64::MAX);
}

#[test]
fn syntax_errors_say_what_go_says() {
    for (text, message) in [
        ("", "unexpected end of JSON input"),
        ("  ", "unexpected end of JSON input"),
        (r#"{"a":"#, "unexpected end of JSON input"),
        (r#"{"a"#, "unexpected end of JSON input"),
        ("tru", "unexpected end of JSON input"),
        ("-", "unexpected end of JSON input"),
        ("{} x", "invalid character 'x' after top-level value (byte 3)"),
        ("{}{}", "invalid character '{' after top-level value (byte 2)"),
        ("01", "invalid character '1' after top-level value (byte 1)"),
        ("{,}", "invalid character ',' looking for beginning of object key string (byte 1)"),
        (r#"{"a" 1}"#, "invalid character '1' after object key (byte 5)"),
        (r#"{"a":1 "b":2}"#, "invalid character '\"' after object key:value pair (byte 7)"),
        ("[1 2]", "invalid character '2' after array element (byte 3)"),
        ("[1,]", "invalid character ']' looking for beginning of value (byte 3)"),
        ("trve", "invalid character 'v' in literal true (expecting 'u') (byte 2)"),
        ("-x", "invalid character 'x' in numeric literal (byte 1)"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal (byte 2)"),
        ("1ex", "invalid character 'x' in exponent of numeric literal (byte 2)"),
        ("\"\n\"", "invalid character '\\n' in string literal (byte 1)"),
        (r#""\q""#, "invalid character 'q' in string escape code (byte 2)"),
        (r#""\u00g0""#, "invalid character 'g' in \\u hexadecimal character escape (byte 5)"),
        ("'", "invalid character '\\'' looking for beginning of value (byte 0)"),
    ] {
        assert_eq!(Json::parse(text.as_bytes()).unwrap_err().to_string(), message, "{text:?}");
    }
}

#[test]
fn strings_decode() {
    let text = |t: &[u8]| Json::parse(t).unwrap().as_str().unwrap().to_owned();
    assert_eq!(text(br#""\"\\\/\b\f\n\r\t\u0041\ud83d\ude00""#), "\"\\/\u{8}\u{c}\n\r\tA\u{1f600}");
    assert_eq!(text(br#""\ud800\u0041""#), "\u{fffd}A");
    assert_eq!(text(br#""\ude00""#), "\u{fffd}");
    assert_eq!(text(b"\"a\xffb\""), "a\u{fffd}b");
}

#[test]
fn depth_is_bounded() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    Json::parse(deep(MAX_DEPTH).as_bytes()).unwrap().decode::<Json>().unwrap().sorted().compact();
    assert_eq!(Json::parse(deep(MAX_DEPTH + 1).as_bytes()), Err(JsonError::TooDeep));
    assert_eq!(Json::parse("{\"a\":".repeat(1_000_000).as_bytes()), Err(JsonError::TooDeep));
}

#[test]
fn trees_keep_order_and_print_like_go() {
    let text = r#"{"b":[1,2.50,1e3,-7],"a":"<&>\u2028","b":{}}"#;
    let tree = Json::parse(text.as_bytes()).unwrap();
    assert_eq!(tree.compact(), r#"{"b":[1,2.5,1000,-7],"a":"\u003c\u0026\u003e\u2028","b":{}}"#);
    assert_eq!(tree.sorted().compact(), r#"{"a":"\u003c\u0026\u003e\u2028","b":{}}"#);
    assert_eq!(Json::parse(b"[1e21,1e-7,123456789012345678]").unwrap().compact(), "[1e+21,1e-7,123456789012345678]");
    let tree = Json::parse(br#"{"a":[],"b":{},"c":[1,{"d":null}]}"#).unwrap();
    let pretty = "{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        1,\n        {\n            \"d\": null\n        }\n    ]\n}";
    assert_eq!(tree.pretty4(), pretty);
    assert_eq!(to_string("\u{1}\u{8}\u{c}\u{7f}é").unwrap(), "\"\\u0001\\b\\f\u{7f}é\"");
}

#[test]
fn numbers_keep_their_value() {
    assert_eq!(Json::parse(b"[-0,-0.0,0,1e-400]").unwrap().compact(), "[-0,-0,0,0]");
    for huge in ["1e999", "-1e999", &format!("1{}", "0".repeat(400))] {
        assert_eq!(Json::parse(huge.as_bytes()).unwrap_err().to_string(), format!("number {huge} is out of range"));
    }
}

#[test]
fn sub_trees_are_fields() {
    let sample = read(r#"{"ipam": {"type": "x", "Type": "y", "n": 1500.0}}"#);
    assert_eq!(sample.ipam.get("TYPE").and_then(Json::as_str), Some("y"));
    assert_eq!(sample.ipam.as_object().unwrap().len(), 3);
    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Ipam {
        n: i32,
    }
    assert!(sample.ipam.decode::<Ipam>().is_err(), "a fraction stays one");
    assert_eq!(read(r#"{"ipam": {"n": 5}}"#).ipam.decode::<Ipam>().unwrap().n, 5);
}

#[test]
fn members_are_replaced_in_any_case() {
    let mut tree = Json::parse(br#"{"CNIVersion":"x","a":1,"cniversion":"y"}"#).unwrap();
    tree.set("cniVersion", "1.0.0".into());
    assert_eq!(tree.compact(), r#"{"a":1,"cniVersion":"1.0.0"}"#);
    tree.remove("A");
    assert!(!tree.has("a"));
    let null = Json::parse(br#"{"a":null}"#).unwrap();
    assert!(null.has("a") && null.get("a").is_none());
}

#[test]
fn addresses_read_as_in_go() {
    assert_eq!(read(r#"{"gw": ""}"#).gw, Ip(None));
    assert_eq!(read(r#"{"gw": "::ffff:10.0.0.1"}"#).gw, Ip(Some("10.0.0.1".parse().unwrap())));
    assert_eq!(fail(r#"{"gw": "010.0.0.1"}"#), "gw: invalid IP address: 010.0.0.1");
    assert!(fail(r#"{"gw": "fe80::1%eth0"}"#).contains("invalid IP address"));
    assert!(fail(r#"{"gw": 5}"#).contains("expected an IP address"));
    assert_eq!(read(r#"{"dst": "10.1.2.3/24"}"#).dst.unwrap().to_string(), "10.1.2.3/24");
    assert_eq!(read(r#"{"dst": "2001:DB8:0:0::1/64"}"#).dst.unwrap().to_string(), "2001:db8::1/64");
    assert_eq!(parse_cidr("::ffff:10.0.0.1/120").unwrap().to_string(), "10.0.0.1/24");
    for bad in [
        "",
        "10.0.0.1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "::/129",
        "::ffff:1.2.3.4/8",
    ] {
        assert_eq!(parse_cidr(bad), None, "{bad}");
    }
    assert_eq!(fail(r#"{"dst": "10.0.0.1"}"#), "dst: invalid CIDR address: 10.0.0.1");
    assert_eq!(to_string(&(Ip(None), Cidr("10.0.0.1/8".parse().unwrap()))).unwrap(), r#"["","10.0.0.1/8"]"#);
}

#[test]
fn quotes_like_go() {
    assert_eq!(quote("a\"b\\c\n\u{1}é'"), "\"a\\\"b\\\\c\\n\\x01é'\"");
}

fn trees() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(|n| Json::Number(n.to_string())),
        any::<String>().prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::Array),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(Json::Object),
        ]
    })
}

proptest! {
    #[test]
    fn a_tree_survives_its_text(tree in trees()) {
        prop_assert_eq!(&Json::parse(tree.compact().as_bytes()).unwrap(), &tree);
        prop_assert_eq!(&Json::parse(tree.pretty4().as_bytes()).unwrap(), &tree);
        prop_assert_eq!(&tree.decode::<Json>().unwrap(), &tree);
    }

    #[test]
    fn other_readers_agree(tree in trees()) {
        let theirs: serde_json::Value = serde_json::from_str(&tree.compact()).unwrap();
        prop_assert_eq!(serde_json::to_value(tree.sorted()).unwrap(), theirs);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<Sample>(&bytes);
    }

    #[test]
    fn no_near_json_panics(text in r#"[\[\]{}:,"\\untrfalse0-9.eE+\- ]{0,60}"#) {
        let ours = Json::parse(text.as_bytes()).is_ok();
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        // ours also takes half a surrogate pair
        prop_assert!(ours == theirs || (ours && text.contains("\\u")), "{} {} {}", text, ours, theirs);
    }
}
