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
fn what_is_no_document_is_refused() {
    for text in ["", "  ", r#"{"a":"#, r#"{"a"#, "tru", "-", "[1"] {
        assert_eq!(Json::parse(text.as_bytes()), Err(JsonError::Ended), "{text:?}");
    }
    for (text, said) in [
        ("{} x", "trailing characters at line 1 column 4"),
        ("{}{}", "trailing characters at line 1 column 3"),
        ("01", "invalid number at line 1 column 2"),
        (r#"{"a" 1}"#, "expected `:` at line 1 column 6"),
        ("[1,\n 2 3]", "expected `,` or `]` at line 2 column 4"),
        (r#"{"a":1,}"#, "trailing comma at line 1 column 8"),
        ("\"\n\"", "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"),
        (r#""\q""#, "invalid escape at line 1 column 3"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
    ] {
        assert_eq!(Json::parse(text.as_bytes()).unwrap_err().to_string(), said, "{text:?}");
    }
}

#[test]
fn strings_decode() {
    let text = |t: &[u8]| Json::parse(t).unwrap().as_str().unwrap().to_owned();
    assert_eq!(text(br#""\"\\\/\b\f\n\r\t\u0041\ud83d\ude00""#), "\"\\/\u{8}\u{c}\n\r\tA\u{1f600}");
    assert_eq!(text(br#""\ud800\u0041""#), "\u{fffd}A");
    assert_eq!(text(br#""\ude00\uD800x\\ud800""#), "\u{fffd}\u{fffd}x\\ud800");
    assert_eq!(text(br#""\uD83D\uDE00\ud83d\ud83d\ude00""#), "\u{1f600}\u{fffd}\u{1f600}");
    assert_eq!(text(b"\"a\xffb\""), "a\u{fffd}b");
}

#[test]
fn depth_is_bounded() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    Json::parse(deep(MAX_DEPTH).as_bytes()).unwrap().decode::<Json>().unwrap().sorted().compact();
    for deeper in [deep(MAX_DEPTH + 1), "{\"a\":".repeat(1_000_000)] {
        let said = Json::parse(deeper.as_bytes()).unwrap_err().to_string();
        assert!(said.starts_with("recursion limit exceeded at line 1 column "), "{said}");
    }
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
    assert_eq!(Json::from("\u{1}\u{8}\u{c}\u{7f}é").compact(), "\"\\u0001\\b\\f\u{7f}é\"");
}

#[test]
fn numbers_keep_their_value() {
    assert_eq!(Json::parse(b"[-0,-0.0,0,1e-400]").unwrap().compact(), "[-0,-0,0,0]");
    for huge in ["1e999", "-1e999", &format!("1{}", "0".repeat(400))] {
        let said = Json::parse(huge.as_bytes()).unwrap_err().to_string();
        assert!(said.starts_with("number out of range at "), "{huge}: {said}");
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
}

/// The vectors of RFC 4648 §10, and the two digits that are neither letters nor numbers.
#[test]
fn bytes_are_base64() {
    for (plain, coded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
        ("\u{3ff}>?", "z78+Pw=="),
    ] {
        assert_eq!(Json::from(plain.as_bytes()).as_str(), Some(coded));
    }
}

#[test]
fn an_enum_is_its_name() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        HostGw,
    }
    assert_eq!(decode::<Vec<Mode>>(br#"["host-gw"]"#).unwrap(), [Mode::HostGw]);
    let said = decode::<Vec<Mode>>(br#"["host-gw", 7]"#).unwrap_err().to_string();
    assert_eq!(said, "[1]: invalid type: number, expected enum Mode");
}

#[test]
fn fields_are_taken_as_go_takes_them() {
    let doc = Json::parse(br#"{"PORT":1,"Port":2,"port":null,"Other":{},"mtu":null,"\u017fize":3}"#).unwrap();
    let mut reader = Reader::new("Backend", &doc).unwrap();
    assert_eq!(reader.take::<u64>("Port"), Some(2), "the last that is not null");
    assert_eq!((reader.take::<u64>("MTU"), reader.take::<u64>("size")), (None, Some(3)));
    assert!(reader.has("pOrt") && !reader.has("mtu") && !reader.has("absent"));
    let (wrong, rest) = reader.finish();
    assert_eq!(wrong, []);
    assert_eq!(rest, Leftovers { unknown: vec!["Backend.Other".into()], repeated: vec!["Backend.Port".into()] });
    let null = Json::parse(br#"{"network":null}"#).unwrap();
    assert_eq!(Reader::new("", &null).unwrap().take::<Json>("Network"), Some(Json::Null), "any value reads null");
}

#[test]
fn every_mistake_is_named_in_its_order() {
    let doc = Json::parse(br#"{"Port":"8472","MTU":1500.0,"GBP":0,"gbp":true,"key":"<k>"}"#).unwrap();
    let mut reader = Reader::new(format!("peers[{}]", 3), &doc).unwrap();
    assert_eq!((reader.take::<u64>("Port"), reader.take::<u64>("MTU")), (None, None));
    reader.wrong("Network", "is missing");
    assert_eq!(reader.take::<bool>("GBP"), Some(true));
    assert_eq!(reader.take_with("key", "short", |value| value.as_str().filter(|text| text.len() < 2).map(drop)), None);
    let said: Vec<String> = reader.finish().0.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            r#"peers[3].Port must be a whole number that is not negative, not "8472""#,
            "peers[3].MTU must be a whole number that is not negative, not 1500.0",
            "peers[3].Network is missing",
            "peers[3].GBP must be true or false, not 0",
            r#"peers[3].key must be short, not "<k>""#,
        ]
    );
    let whole = Reader::new("", &Json::Array(Vec::new())).unwrap_err();
    assert_eq!(whole.to_string(), "the whole must be an object, not []");
    assert!(Reader::new("", &Json::Null).is_ok());
}

fn trees() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(|n| Json::Number(n.into())),
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
        // ours also accepts an unpaired surrogate
        prop_assert!(ours == theirs || (ours && text.contains("\\u")), "{} {} {}", text, ours, theirs);
    }
}
