//! Rules, and the forms that destinations come in.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tunnel_proto::target::Target;

use crate::spelling::{number, read};
use crate::{Policy, Subject, Verdict};

fn policy(text: &str) -> Policy {
    text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn error(text: &str) -> String {
    text.parse::<Policy>().unwrap_err().to_string()
}

/// `allow RULE` or `deny RULE`.
fn decided(policy: &Policy, target: &str, identity: Option<&str>, address: Option<&str>) -> String {
    let target: Target = read(target).unwrap();
    let address = address.map(|address| address.parse().unwrap());
    let Verdict { allow, rule } = policy.decide(Subject { identity, also: &[] }, &target, address);
    format!("{} {rule}", if allow { "allow" } else { "deny" })
}

/// Refuses nothing that rules without special addresses in mind could.
const WIDE: &str = "
default: allow
rules:
  - {name: v4, action: allow, to: [0.0.0.0/0, 128.0.0.0/1, 0.0.0.0/1]}
  - {name: v6, action: allow, to: ['::/0', 'fd00::/8', 'fe00::/7']}
  - {name: names, action: allow, to: ['*.internal', '*.goog']}
  - {name: all, action: allow}
";

#[test]
fn without_a_file_special_addresses_are_refused_and_loopback_is_not() {
    for policy in [Policy::default(), policy("default: allow"), policy(WIDE)] {
        for (target, rule) in [
            ("169.254.169.254:80", "builtin/metadata"),
            ("169.254.170.23:80", "builtin/metadata"),
            ("100.100.100.200:80", "builtin/metadata"),
            ("168.63.129.16:80", "builtin/metadata"),
            ("[fd00:ec2::254]:80", "builtin/metadata"),
            ("[fd20:ce::254]:80", "builtin/metadata"),
            ("[fe80::a9fe:a9fe]:80", "builtin/metadata"),
            ("METADATA.google.internal.:80", "builtin/metadata"),
            ("169.254.20.10:53", "builtin/link-local"),
            ("[fe80::1%eth0]:80", "builtin/link-local"),
            ("[febf::1]:80", "builtin/link-local"),
            ("224.0.0.1:80", "builtin/multicast"),
            ("239.255.255.250:80", "builtin/multicast"),
            ("[ff02::1]:80", "builtin/multicast"),
            ("0.0.0.0:80", "builtin/unspecified"),
            ("0.1.2.3:80", "builtin/unspecified"),
            ("[::]:80", "builtin/unspecified"),
            ("255.255.255.255:80", "builtin/broadcast"),
        ] {
            assert_eq!(decided(&policy, target, None, None), format!("deny {rule}"), "{target}");
        }
        for target in [
            "127.0.0.1:80",
            "[::1]:80",
            "localhost:80",
            "10.0.0.1:10250",
            "[fd00::1]:10250",
            "worker-7:10250",
            "169.253.255.255:80",
            "[fec0::1]:80",
            "[64:ff9b::10.0.0.1]:80",
            "[64:ff9b:1::10.0.0.1]:80",
            "[64:ff9b:1:a00:0:100::]:80",
            "[2001:db8::1]:80",
            "[2002:a00:1::1]:80",
        ] {
            assert!(decided(&policy, target, None, None).starts_with("allow "), "{target}");
        }
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(
        "
default: deny
rules:
  - {name: no-ssh, action: deny, ports: [22]}
  - {name: kubelets, action: allow, to: [10.0.0.0/16, worker-7, 'fd00:1::/32'], ports: [10250, 30000-32767]}
  - {name: services, action: allow, to: ['*.svc', '*.svc.cluster.local.'], ports: [443]}
  - {name: operators, action: allow, to: [10.9.0.1], identities: [admin, 'system:masters:*']}
",
    );
    for (target, identity, expected) in [
        ("10.0.3.7:10250", None, "allow kubelets"),
        ("10.0.3.7:30000", None, "allow kubelets"),
        ("10.0.3.7:32768", None, "deny default"),
        ("10.0.3.7:22", None, "deny no-ssh"),
        ("[::ffff:10.0.3.7]:10250", None, "allow kubelets"),
        ("[fd00:1::7]:10250", None, "allow kubelets"),
        ("10.1.0.1:10250", None, "deny default"),
        ("worker-7:10250", None, "allow kubelets"),
        ("Worker-7.:10250", None, "allow kubelets"),
        ("worker-77:10250", None, "deny default"),
        ("a.b.svc:443", None, "allow services"),
        ("a.b.svc.cluster.local:443", None, "allow services"),
        ("svc:443", None, "deny default"),
        ("xsvc:443", None, "deny default"),
        ("10.9.0.1:80", None, "deny default"),
        ("10.9.0.1:80", Some("admin"), "allow operators"),
        ("10.9.0.1:80", Some("admins"), "deny default"),
        ("10.9.0.1:80", Some("system:masters:a"), "allow operators"),
    ] {
        assert_eq!(decided(&policy, target, identity, None), expected, "{target} {identity:?}");
        let names = [identity.unwrap_or_default().into()];
        let subject = Subject { identity: Some("another"), also: &names };
        let verdict = policy.decide(subject, &read(target).unwrap(), None);
        assert!(expected.ends_with(verdict.rule), "{target} {identity:?} as a further name");
    }
}

#[test]
fn a_name_is_decided_by_its_name_on_a_server_and_by_each_address_on_an_agent() {
    let policy = policy(
        "
default: allow
rules:
  - {name: loopback, action: deny, to: [127.0.0.0/8, '::1', localhost, '*.localhost']}
  - {name: database, action: deny, to: [10.0.9.0/24]}
  - {name: services, action: allow, to: ['*.svc']}
",
    );
    let target = "a.svc:443";
    assert_eq!(decided(&policy, target, None, None), "allow services");
    assert_eq!(decided(&policy, target, None, Some("10.0.0.1")), "allow services");
    assert_eq!(decided(&policy, target, None, Some("10.0.9.1")), "deny database");
    assert_eq!(decided(&policy, target, None, Some("::ffff:127.0.0.1")), "deny loopback");
    assert_eq!(decided(&policy, target, None, Some("169.254.169.254")), "deny builtin/metadata");
    assert_eq!(decided(&policy, "localhost:80", None, None), "deny loopback");
    assert_eq!(decided(&policy, "x.LOCALHOST:80", None, None), "deny loopback");
    assert_eq!(decided(&policy, "[2002:7f00:1::1]:80", None, None), "deny loopback");
}

#[test]
fn a_special_address_is_allowed_only_by_a_network_within_its_class() {
    let policy = policy(
        "
default: deny
rules:
  - {name: not-here, action: deny, to: [169.254.20.11]}
  - {name: dns, action: allow, to: [169.254.20.0/24], ports: [53]}
  - {name: aws, action: allow, to: [169.254.0.0/16, 169.254.170.23], ports: [80]}
  - {name: google, action: allow, to: [metadata.google.internal]}
  - {name: wide, action: allow, to: [0.0.0.0/0, '64:ff9b::/96']}
",
    );
    for (target, expected) in [
        ("169.254.20.10:53", "allow dns"),
        ("169.254.20.11:53", "deny not-here"),
        ("169.254.20.10:80", "allow aws"),
        ("169.254.20.10:81", "deny builtin/link-local"),
        ("169.254.170.23:80", "allow aws"),
        ("169.254.169.254:80", "deny builtin/metadata"),
        ("metadata.google.internal:80", "allow google"),
        ("224.0.0.1:80", "deny builtin/multicast"),
        ("8.8.8.8:80", "allow wide"),
        ("[64:ff9b::8.8.8.8]:80", "allow wide"),
        ("[64:ff9b::169.254.169.254]:80", "deny builtin/metadata"),
        ("[64:ff9b::169.254.170.23]:80", "allow wide"),
    ] {
        assert_eq!(decided(&policy, target, None, None), expected, "{target}");
    }
    let google = decided(&policy, "metadata.google.internal:80", None, Some("169.254.169.254"));
    assert_eq!(google, "deny builtin/metadata");
}

#[test]
fn a_file_that_is_not_understood_is_refused_as_a_whole_with_its_place() {
    let rule = |rule: &str| format!("default: allow\nrules:\n  - {rule}\n");
    for (text, part) in [
        (String::new(), "end of input"),
        ("rules: []".to_owned(), "default"),
        ("default: maybe".to_owned(), "maybe"),
        ("default: allow\nrule: []".to_owned(), "line 2"),
        (rule("{name: a}"), "action"),
        (rule("{name: a, action: deny, too: [a]}"), "line 3"),
        (rule("{name: default, action: deny}"), "no name of a rule"),
        (rule("{name: builtin/x, action: deny}"), "no name of a rule"),
        (rule("{name: a, action: deny, to: [10.0.0.0/33]}"), "line 3"),
        (rule("{name: a, action: deny, to: ['*']}"), "\"*\" is no network, host name"),
        (rule("{name: a, action: deny, to: [0x7f000001]}"), "is 127.0.0.1"),
        (rule("{name: a, action: deny, to: ['a b']}"), "is no network"),
        (rule("{name: a, action: deny, to: [*.10.0.0.1]}"), "line 3"),
        (rule("{name: a, action: deny, to: []}"), "\"to\" of rule \"a\" is an empty list"),
        (rule("{name: a, action: deny, ports: [0]}"), "no port from 1"),
        (rule("{name: a, action: deny, ports: [65536]}"), "no port from 1"),
        (rule("{name: a, action: deny, ports: [9-8]}"), "no port from 1"),
        (rule("{name: a, action: deny, identities: [a*b]}"), "no identity"),
        (rule("{name: a, action: deny}\n  - {name: a, action: allow}"), "two rules have the name \"a\""),
        ("default: allow\ndefault: deny".to_owned(), "line 2"),
        ("default: allow\nrules:\n  - {name: a, action".to_owned(), "line"),
    ] {
        let error = error(&text);
        assert!(error.contains(part) && !error.contains('\n'), "{text}\n{error}\nwithout {part}");
    }
    let many: String = (0..=10_000).map(|i| format!("- {{name: r{i}, action: deny}}\n")).collect();
    assert!(error(&format!("default: allow\nrules:\n{many}")).contains("10001 rules"));
}

#[test]
fn a_file_of_any_length_is_read_up_to_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml");
    assert!(Policy::read(&path).unwrap_err().to_string().contains("policy.yaml: No such file"));
    std::fs::write(&path, format!("default: deny\n{}", "#\n".repeat(600_000))).unwrap();
    assert!(Policy::read(&path).unwrap_err().to_string().contains("longer than 1 MiB"));
    std::fs::write(&path, "default: deny\n").unwrap();
    assert_eq!(decided(&Policy::read(&path).unwrap(), "a:1", None, None), "deny default");
    assert!(Policy::read(std::path::Path::new("/dev/zero")).unwrap_err().to_string().contains("1 MiB"));
}

/// The forms of an IPv4 address that some resolver, kernel or translator takes for it.
fn spellings(ip: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = ip.octets();
    let (all, low24, low16) = (ip.to_bits(), ip.to_bits() & 0xff_ffff, ip.to_bits() & 0xffff);
    let parts = [a.into(), b.into(), c.into(), d.into()];
    let mut forms = vec![];
    for whole in [vec![all], vec![a.into(), low24], vec![a.into(), b.into(), low16], parts.to_vec()] {
        for form in 0..4_usize.pow(u32::try_from(whole.len()).unwrap()) {
            let part = |(at, part): (usize, &u32)| match form >> (2 * at) & 3 {
                0 => format!("{part}"),
                1 => format!("0{part:o}"),
                2 => format!("0x{part:x}"),
                _ => format!("0X{part:08X}"),
            };
            let text = whole.iter().enumerate().map(part).collect::<Vec<_>>().join(".");
            forms.push(format!("{text}.:80"));
            forms.push(format!("{text}:80"));
        }
    }
    let (high, low) = (all >> 16, all & 0xffff);
    for v6 in [
        format!("::ffff:{ip}"),
        format!("::FFFF:{high:X}:{low:X}"),
        format!("0:0:0:0:0:ffff:{high:04x}:{low:04x}"),
        format!("64:ff9b::{ip}"),
        format!("2002:{high:x}:{low:x}::1"),
        format!("::ffff:0:{ip}"),
        format!("fd00::5efe:{ip}"),
        format!("2001:0:1:2:3:4:{:x}:{:x}", !high & 0xffff, !low & 0xffff),
    ] {
        forms.push(format!("[{v6}%eth0]:80"));
        forms.push(format!("[{v6}]:80"));
    }
    if a != 0 {
        forms.push(format!("[::{ip}]:80"));
        forms.push(format!("[64:ff9b:1::{ip}]:80"));
        forms.push(format!("[64:ff9b:1:{high:x}:{:x}:{:x}::]:80", low >> 8, (low & 0xff) << 8));
        forms.push(format!("[64:ff9b:1:ab{a:02x}:{b:x}:{low:x}::]:80"));
        forms.push(format!(
            "[64:ff9b:1:abcd:{a:x}:{:x}:{:x}::]:80",
            u32::from(b) << 8 | u32::from(c),
            u32::from(d) << 8
        ));
    }
    forms
}

#[test]
fn no_spelling_of_a_forbidden_address_is_allowed() {
    let forbidden = [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.42.42",
        "169.254.0.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "169.254.0.0",
        "169.254.255.255",
        "169.254.1.1",
        "224.0.0.1",
        "239.255.255.255",
        "232.1.2.3",
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "255.255.255.255",
        "169.254.20.10",
    ];
    let policies = [Policy::default(), policy(WIDE)];
    let mut tried = HashSet::new();
    for ip in forbidden {
        let ip: Ipv4Addr = ip.parse().unwrap();
        for text in spellings(ip) {
            let target = read(&text).unwrap_or_else(|error| panic!("{ip} as {text}: {error}"));
            for policy in &policies {
                let verdict = policy.decide(Subject::default(), &target, None);
                assert!(!verdict.allow, "{ip} as {text}, which is {target}: {verdict:?}");
            }
            tried.insert(text);
        }
    }
    assert!(tried.len() > 10_000, "{}", tried.len());
}

proptest! {
    #[test]
    fn the_first_rule_is_found_whatever_its_kind(
        rules in prop::collection::vec((0_usize..7, any::<bool>(), prop::option::of(1_u16..4)), 0..12),
        asked in 0_usize..4,
        port in 1_u16..4,
    ) {
        const TO: [&str; 7] = ["[10.0.0.0/8]", "['fd00::/8', 10.0.0.1]", "[a.b.c]", "['*.b.c', x]", "['*.c']", "['::/0']", ""];
        let targets = ["10.0.0.1", "[fd00::1]", "a.b.c", "a.c"];
        let matches = |to: usize| match asked {
            0 => [0, 1, 6].contains(&to),
            1 => [1, 5, 6].contains(&to),
            2 => [2, 3, 4, 6].contains(&to),
            _ => [4, 6].contains(&to),
        };
        let mut text = "default: allow\nrules:\n".to_owned();
        for (i, (to, allow, ports)) in rules.iter().enumerate() {
            let action = if *allow { "allow" } else { "deny" };
            let to = if TO[*to].is_empty() { String::new() } else { format!(", to: {}", TO[*to]) };
            let ports = ports.map_or(String::new(), |port| format!(", ports: [{port}]"));
            text += &format!("- {{name: r{i}, action: {action}{to}{ports}}}\n");
        }
        if rules.is_empty() {
            text = "default: allow".to_owned();
        }
        let expected = rules.iter().position(|(to, _, ports)| matches(*to) && ports.is_none_or(|one| one == port));
        let expected = expected.map_or("allow default".to_owned(), |i| format!("{} r{i}", if rules[i].1 { "allow" } else { "deny" }));
        prop_assert_eq!(decided(&policy(&text), &format!("{}:{port}", targets[asked]), None, None), expected);
    }

    #[test]
    fn every_forbidden_address_is_refused_in_every_spelling(
        low in any::<u32>(),
        class in prop::sample::select(vec![(0xa9fe_0000_u32, 16_u32), (0xe000_0000, 4), (0, 8)]),
    ) {
        let (first, bits) = class;
        let ip = Ipv4Addr::from_bits(first | low & (u32::MAX >> bits));
        let policy = policy(WIDE);
        for text in spellings(ip) {
            let target = read(&text).unwrap();
            prop_assert!(!policy.decide(Subject::default(), &target, None).allow, "{} as {}", ip, text);
        }
    }

    #[test]
    fn special_ipv6_addresses_are_refused(
        low in any::<u128>(),
        class in prop::sample::select(vec![(0xfe80_u128 << 112, 10_u32), (0xff << 120, 8)]),
    ) {
        let (first, bits) = class;
        let ip = IpAddr::V6(Ipv6Addr::from_bits(first | low & (u128::MAX >> bits)));
        let target: Target = "name.example:80".parse().unwrap();
        prop_assert!(!policy(WIDE).decide(Subject::default(), &target, Some(ip)).allow, "{}", ip);
    }

    #[test]
    fn an_address_is_read_as_the_resolver_does(bits in any::<u32>()) {
        let ip = Ipv4Addr::from_bits(bits);
        prop_assert_eq!(number(&ip.to_string()), Some(ip));
        prop_assert_eq!(number(&bits.to_string()), Some(ip));
        prop_assert_eq!(number(&format!("0x{bits:x}")), Some(ip));
        prop_assert_eq!(number(&format!("0{bits:o}")), Some(ip));
    }

    #[test]
    fn nothing_makes_the_readers_panic(text in "\\PC{0,60}", yaml in "[a-z:{}\\[\\]&*!|> \n0-9./-]{0,80}") {
        let _ = read(&text);
        let _ = number(&text);
        let _ = yaml.parse::<Policy>();
    }
}

#[test]
fn what_no_resolver_takes_is_no_address() {
    // The first text is empty.
    let texts = " 1.2.3.4.5 256.1 1.16777216 1.2.65536 4294967296 0x 08 +1 1..2 a 1.2.3.4x";
    for text in texts.split(' ') {
        assert_eq!(number(text), None, "{text}");
    }
    for text in ["127.1", "0x7f.1", "0177.0.0.1", "2130706433", "017700000001"] {
        assert_eq!(number(text), Some(Ipv4Addr::LOCALHOST), "{text}");
    }
    for text in ["a b:80", "10.0.0.1", "10.0.0.1:0", "127.1:65536", "[::1:80", "[::g]:80"] {
        assert!(read(text).is_err(), "{text}");
    }
}
