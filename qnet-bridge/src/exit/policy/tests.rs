use super::*;
use proptest::prelude::*;

fn policy(text: &str) -> ExitPolicy {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn allows(policy: &ExitPolicy, target: &str) -> bool {
    policy.allows(target.parse().unwrap(), false)
}

/// Everything that is not the public Internet, with its edges, and what lies just beyond them.
const REFUSED: &[&str] = &[
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0",
    "169.254.169.254",
    "169.254.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:169.254.169.254",
    "64:ff9b::808:808",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378::1",
    "2001:10::1",
    "2001:20::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2002:808:808::1",
    "2002:7f00:1::1",
    "3fff::1",
    "3fff:fff:ffff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff::1",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "1fff:ffff::1",
];

const PUBLIC: &[&str] = &[
    "1.0.0.0",
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.1",
    "203.0.112.1",
    "203.0.114.1",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2001:db7::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700::1111",
    "2a00::1",
    "3ffe::1",
    "3fff:1000::1",
];

#[test]
fn the_default_is_the_public_web() {
    let policy = ExitPolicy::default();
    assert_eq!(policy, self::policy(DEFAULT));
    for ip in PUBLIC {
        let ip: IpAddr = ip.parse().unwrap();
        for port in [80, 443] {
            assert!(policy.allows(SocketAddr::new(ip, port), false), "{ip}:{port}");
        }
        for port in [0, 22, 25, 79, 81, 8080, u16::MAX] {
            assert!(!policy.allows(SocketAddr::new(ip, port), false), "{ip}:{port}");
        }
    }
}

#[test]
fn nothing_that_is_not_public_is_reached_however_wide_the_policy() {
    let policy = policy("accept *:*, accept private:*, accept 127.0.0.0/8:*, accept6 [::]/0:*");
    for ip in REFUSED {
        let ip: IpAddr = ip.parse().unwrap();
        assert!(special(ip).is_some(), "{ip}");
        assert!(!policy.allows(SocketAddr::new(ip, 443), false), "{ip}");
    }
    assert!(PUBLIC.iter().all(|ip| special(ip.parse().unwrap()).is_none()));
}

#[test]
fn an_operator_may_open_his_own_network() {
    let policy = policy("accept 192.168.1.0/24:22, reject private:*, accept *:*");
    let allows = |target: &str| policy.allows(target.parse().unwrap(), true);
    assert!(allows("192.168.1.7:22") && allows("[::ffff:192.168.1.7]:22") && allows("8.8.8.8:53"));
    assert!(!allows("192.168.1.7:23") && !allows("192.168.2.7:22") && !allows("127.0.0.1:22"));
    for nobody in
        ["0.0.0.0:22", "224.0.0.1:22", "255.255.255.255:22", "[::]:22", "[ff02::1]:22", "[::ffff:0.0.0.0]:22"]
    {
        assert!(!self::policy("accept *:*").allows(nobody.parse().unwrap(), true), "{nobody}");
    }
}

#[test]
fn the_first_match_decides_and_none_refuses() {
    let policy = policy("reject 8.8.8.0/24:53, accept 8.8.0.0/16:50-60, accept6 *:443, accept *4:25");
    assert!(!allows(&policy, "8.8.8.8:53") && allows(&policy, "8.8.8.8:54") && allows(&policy, "8.8.4.4:53"));
    assert!(allows(&policy, "[2606:4700::1]:443") && !allows(&policy, "8.8.8.8:443"));
    assert!(allows(&policy, "9.9.9.9:25") && !allows(&policy, "[2606:4700::1]:25"));
    assert!(!allows(&policy, "9.9.9.9:53"), "no rule matches");
    assert!(policy.allows_port(443) && policy.allows_port(55) && !policy.allows_port(80));
}

#[test]
fn tors_forms() {
    for (text, canonical) in [
        ("accept *", "accept *:*"),
        ("accept 8.8.8.8", "accept 8.8.8.8/32:*"),
        ("reject 8.8.8.0/255.255.255.0:80-90", "reject 8.8.8.0/24:80-90"),
        ("accept 0.0.0.0/0:1", "accept 0.0.0.0/0:1"),
        ("accept [2606:4700::]/32:443", "accept [2606:4700::]/32:443"),
        ("accept6 [2606:4700::1]", "accept [2606:4700::1]/128:*"),
        ("accept *6:80", "accept *6:80"),
        ("reject6 private:*", "reject6 private:*"),
        (" accept  *:80 ,\n reject *:* \n", "accept *:80, reject *:*"),
    ] {
        assert_eq!(policy(text).to_string(), canonical, "{text}");
        assert_eq!(policy(canonical), policy(text), "{text}");
    }
}

#[test]
fn a_wrong_rule_is_named_and_so_is_what_was_expected() {
    let verb = |text: &str| PolicyError::Verb(text.to_owned());
    let error = |text: &str| text.parse::<ExitPolicy>().unwrap_err();
    assert_eq!(error(""), PolicyError::Empty);
    assert_eq!(error(" , \n"), PolicyError::Empty);
    assert_eq!(error("allow *:80"), verb("allow *:80"));
    assert_eq!(error("accept *:80, Reject *:*"), verb("Reject *:*"));
    for text in ["accept", "accept *:80 please"] {
        assert_eq!(error(text), PolicyError::Pattern(text.to_owned()));
    }
    for text in [
        "accept 8.8.8:80",
        "accept 8.8.8.8/33:80",
        "accept 8.8.8.8/-1:80",
        "accept 8.8.8.8/+8:80",
        "accept 8.8.8.8/255.0.255.0:1",
        "accept www.example.com:80",
        "accept :80",
        "accept [::1:80",
        "accept ::1:80",
        "accept [::1]/129:80",
        "accept *5:1",
    ] {
        assert_eq!(error(text), PolicyError::Address(text.to_owned()), "{text}");
    }
    for text in [
        "accept *:",
        "accept *:0",
        "accept *:65536",
        "accept *:90-80",
        "accept *:1-",
        "accept *:+1",
        "accept *:80-90-100",
    ] {
        assert_eq!(error(text), PolicyError::Ports(text.to_owned()), "{text}");
    }
    for text in ["accept6 8.8.8.8:80", "reject6 *4:*"] {
        assert_eq!(error(text), PolicyError::Family(text.to_owned()), "{text}");
    }
    assert!(error("accept *:0").to_string().contains("`accept *:0`"));
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

/// A slow second opinion on prefixes: bit by bit.
fn in_net(ip: IpAddr, net: IpAddr, bits: u8) -> bool {
    let of = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (ip, net) = (of(ip), of(net));
    ip.len() == net.len()
        && (0..usize::from(bits)).all(|bit| (ip[bit / 8] ^ net[bit / 8]) & (0x80 >> (bit % 8)) == 0)
}

proptest! {
    #[test]
    fn any_text_is_a_policy_or_an_error(text in "\\PC{0,60}") {
        if let Ok(policy) = text.parse::<ExitPolicy>() {
            prop_assert_eq!(policy.to_string().parse::<ExitPolicy>(), Ok(policy));
        }
    }

    #[test]
    fn nearly_rules_too(text in "(accept|reject|accept6|reject6) [*0-9a-f:.\\[\\]/46-]{0,30}") {
        if let Ok(policy) = text.parse::<ExitPolicy>() {
            prop_assert_eq!(policy.to_string().parse::<ExitPolicy>(), Ok(policy));
        }
    }

    #[test]
    fn a_network_holds_what_shares_its_bits(ip in any_ip(), net in any_ip(), near in any::<bool>(), bits in 0_u8..=128) {
        // Near: the network is made from the address, so that about half of the cases hold.
        let net = if near { ip } else { net };
        let bits = if net.is_ipv4() { bits % 33 } else { bits };
        let text = if net.is_ipv4() { format!("accept {net}/{bits}:*") } else { format!("accept [{net}]/{bits}:*") };
        let target = SocketAddr::new(ip, 1);
        let mapped = ip != ip.to_canonical();
        prop_assume!(!impossible(ip) && !mapped);
        prop_assert_eq!(policy(&text).allows(target, true), in_net(ip, net, bits));
    }

    #[test]
    fn what_is_special_is_never_reached(ip in any_ip(), port in any::<u16>()) {
        let allowed = policy("accept *:*").allows(SocketAddr::new(ip, port), false);
        prop_assert_eq!(allowed, port != 0 && special(ip).is_none());
    }

    #[test]
    fn no_address_within_another_is_a_way_around(v4 in any::<[u8; 4]>()) {
        let [a, b, c, d] = v4.map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        for wrapped in [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !high, !low),
        ] {
            prop_assert!(special(wrapped.into()).is_some());
        }
    }
}
