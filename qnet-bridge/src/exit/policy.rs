//! Where a bridge connects to for its clients: an exit policy in Tor's syntax (tor(1), `ExitPolicy`).
//!
//! ```text
//! accept *:80, accept *:443, reject 198.51.100.0/24:*, accept6 [2620:0:2d0::]/48:22, reject *:*
//! ```
//!
//! The first rule that matches decides; where none does, the connection is refused. What Tor calls `private` is refused before
//! any rule is asked, unless the operator says otherwise, and here it is wider than Tor's: see [`special`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use qnet_wire::error::{Kind, Retry};

/// What a bridge does unless it is told otherwise: the web.
pub const DEFAULT: &str = "accept *:80, accept *:443, reject *:*";

/// IPv4 ranges that are nobody's or not everybody's: IANA's special-purpose registry (RFC 6890 and after), multicast, and one
/// address inside which a cloud answers its own machines.
const SPECIAL_V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network (RFC 791)"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private (RFC 1918)"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT (RFC 6598)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback (RFC 1122)"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "Azure's own services"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local and cloud metadata (RFC 3927)"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private (RFC 1918)"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "IETF protocol assignments (RFC 6890)"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation (RFC 5737)"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relays (RFC 7526)"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private (RFC 1918)"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking (RFC 2544)"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation (RFC 5737)"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation (RFC 5737)"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast (RFC 5771)"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved and broadcast (RFC 1112)"),
];

/// All that IPv6 has given out to networks (RFC 4291, section 2.4, as IANA applies it). What lies outside is refused, whatever it
/// is or becomes: loopback, v4-mapped, NAT64, link-local, unique-local (where clouds have metadata, too), multicast.
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is special within it.
const SPECIAL_V6: &[(Ipv6Addr, u8, &str)] = &[
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "IETF protocol assignments, Teredo (RFC 2928, RFC 4380)",
    ),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation (RFC 3849)"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4 (RFC 3056)"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation (RFC 9637)"),
];

/// Why an address is none of the public Internet's, or `None` where it is one.
///
/// An address that holds another within it (v4-mapped, 6to4, NAT64, Teredo) is special as such: the one within is never looked at,
/// so there is no second way to a refused address. A network's own NAT64 prefix cannot be known.
#[must_use]
pub fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => {
            let found = SPECIAL_V4.iter().find(|(net, bits, _)| same_v4(ip, *net, *bits));
            found.map(|(.., why)| *why)
        }
        IpAddr::V6(ip) if !same_v6(ip, GLOBAL_V6.0, GLOBAL_V6.1) => Some("not global unicast (RFC 4291)"),
        IpAddr::V6(ip) => {
            let found = SPECIAL_V6.iter().find(|(net, bits, _)| same_v6(ip, *net, *bits));
            found.map(|(.., why)| *why)
        }
    }
}

/// What no policy can allow: there is no one host to connect to.
fn impossible(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

fn same_v4(a: Ipv4Addr, b: Ipv4Addr, bits: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    a.to_bits() & mask == b.to_bits() & mask
}

fn same_v6(a: Ipv6Addr, b: Ipv6Addr, bits: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    a.to_bits() & mask == b.to_bits() & mask
}

/// An exit policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitPolicy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    accept: bool,
    hosts: Hosts,
    /// First and last port.
    ports: (u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    AllV4,
    AllV6,
    V4(Ipv4Addr, u8),
    V6(Ipv6Addr, u8),
    /// Every special range, in a rule of Tor's name for them; of IPv6 alone in an `accept6` or `reject6`.
    Private {
        v6_only: bool,
    },
}

impl ExitPolicy {
    /// Whether the policy allows a connection to `target`. `special_too`: what is [`special`] is left to the rules; otherwise it
    /// is refused before they are asked.
    #[must_use]
    pub fn allows(&self, target: SocketAddr, special_too: bool) -> bool {
        // A v4-mapped address is an IPv4 one to the system, and so to the rules.
        let ip = if special_too { target.ip().to_canonical() } else { target.ip() };
        if target.port() == 0 || impossible(ip) || (!special_too && special(ip).is_some()) {
            return false;
        }
        let matching = self.rules.iter().find(|rule| rule.matches(ip, target.port()));
        matching.is_some_and(|rule| rule.accept)
    }

    /// Whether any target at `port` can be allowed, whatever its address: where not, a name need not be looked up.
    #[must_use]
    pub fn allows_port(&self, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.accept && (rule.ports.0..=rule.ports.1).contains(&port))
    }
}

impl Default for ExitPolicy {
    fn default() -> Self {
        let web = |port| Rule { accept: true, hosts: Hosts::All, ports: (port, port) };
        Self {
            rules: vec![web(80), web(443), Rule { accept: false, hosts: Hosts::All, ports: (1, u16::MAX) }],
        }
    }
}

impl Rule {
    fn matches(&self, ip: IpAddr, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port) && self.hosts.hold(ip)
    }
}

impl Hosts {
    fn hold(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::All, _) | (Self::AllV4, IpAddr::V4(_)) | (Self::AllV6, IpAddr::V6(_)) => true,
            (Self::V4(net, bits), IpAddr::V4(ip)) => same_v4(ip, net, bits),
            (Self::V6(net, bits), IpAddr::V6(ip)) => same_v6(ip, net, bits),
            (Self::Private { v6_only }, ip) => (ip.is_ipv6() || !v6_only) && special(ip).is_some(),
            _ => false,
        }
    }
}

impl FromStr for ExitPolicy {
    type Err = PolicyError;

    /// Rules between commas or line ends.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let rules: Vec<Rule> = text
            .split([',', '\n'])
            .map(str::trim)
            .filter(|rule| !rule.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        if rules.is_empty() { Err(PolicyError::Empty) } else { Ok(Self { rules }) }
    }
}

impl FromStr for Rule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let error = |what: fn(String) -> PolicyError| what(text.to_owned());
        let mut words = text.split_ascii_whitespace();
        let (accept, v6_only) = match words.next() {
            Some("accept") => (true, false),
            Some("reject") => (false, false),
            Some("accept6") => (true, true),
            Some("reject6") => (false, true),
            _ => return Err(error(PolicyError::Verb)),
        };
        let (Some(pattern), None) = (words.next(), words.next()) else {
            return Err(error(PolicyError::Pattern));
        };
        // An IPv6 address stands in brackets, so that its own colons are not the port's.
        let after_address = pattern.rfind(']').unwrap_or(0);
        let (hosts, ports) = match pattern[after_address..].rfind(':') {
            Some(at) => (&pattern[..after_address + at], &pattern[after_address + at + 1..]),
            None => (pattern, "*"),
        };
        let hosts = parse_hosts(hosts, v6_only).ok_or_else(|| error(PolicyError::Address))?;
        if v6_only && matches!(hosts, Hosts::AllV4 | Hosts::V4(..)) {
            return Err(error(PolicyError::Family));
        }
        let ports = parse_ports(ports).ok_or_else(|| error(PolicyError::Ports))?;
        Ok(Self { accept, hosts, ports })
    }
}

fn parse_hosts(text: &str, v6_only: bool) -> Option<Hosts> {
    match text {
        "*" if v6_only => return Some(Hosts::AllV6),
        "*" => return Some(Hosts::All),
        "*4" => return Some(Hosts::AllV4),
        "*6" => return Some(Hosts::AllV6),
        "private" => return Some(Hosts::Private { v6_only }),
        _ => {}
    }
    let (address, mask) = text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
    if let Some(inside) = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let bits = mask.map_or(Some(128), |mask| number(mask, 128))?;
        return Some(Hosts::V6(inside.parse().ok()?, bits));
    }
    let bits = match mask {
        None => 32,
        Some(mask) => match number(mask, 32) {
            Some(bits) => bits,
            None => netmask(mask.parse().ok()?)?,
        },
    };
    Some(Hosts::V4(address.parse().ok()?, bits))
}

fn number(text: &str, most: u8) -> Option<u8> {
    digits(text)?.parse().ok().filter(|bits| *bits <= most)
}

/// Rust's own parser takes a plus sign, too.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// The bits of a mask such as 255.255.255.0.
fn netmask(mask: Ipv4Addr) -> Option<u8> {
    let ones = mask.to_bits().leading_ones();
    let whole = u32::MAX.checked_shl(32 - ones).unwrap_or(0) == mask.to_bits();
    whole.then(|| u8::try_from(ones).ok()).flatten()
}

fn parse_ports(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| digits(text)?.parse::<u16>().ok().filter(|port| *port != 0);
    match text.split_once('-') {
        _ if text == "*" => Some((1, u16::MAX)),
        Some((from, to)) => Some((port(from)?, port(to)?)).filter(|(from, to)| from <= to),
        None => port(text).map(|port| (port, port)),
    }
}

/// As it is parsed.
impl fmt::Display for ExitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rule) in self.rules.iter().enumerate() {
            write!(f, "{}{rule}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.accept { "accept" } else { "reject" };
        match self.hosts {
            Hosts::All => write!(f, "{verb} *")?,
            Hosts::AllV4 => write!(f, "{verb} *4")?,
            Hosts::AllV6 => write!(f, "{verb} *6")?,
            Hosts::V4(net, bits) => write!(f, "{verb} {net}/{bits}")?,
            Hosts::V6(net, bits) => write!(f, "{verb} [{net}]/{bits}")?,
            Hosts::Private { v6_only } => write!(f, "{verb}{} private", if v6_only { "6" } else { "" })?,
        }
        match self.ports {
            (1, u16::MAX) => f.write_str(":*"),
            (from, to) if from == to => write!(f, ":{from}"),
            (from, to) => write!(f, ":{from}-{to}"),
        }
    }
}

/// What is wrong with a policy. Each names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No rule at all.
    #[error("an exit policy needs a rule; an example: {DEFAULT}")]
    Empty,
    /// Something else than accept or reject first.
    #[error("`{0}`: a rule begins with accept, reject, accept6 or reject6")]
    Verb(String),
    /// Not two words.
    #[error("`{0}`: a rule is two words, such as accept *:443")]
    Pattern(String),
    /// No address.
    #[error(
        "`{0}`: before the port stands *, *4, *6, private, an address or a network, such as 198.51.100.0/24 or [2001:db8::]/32"
    )]
    Address(String),
    /// IPv4 in a rule for IPv6.
    #[error("`{0}`: accept6 and reject6 are for IPv6 addresses alone")]
    Family(String),
    /// No ports.
    #[error("`{0}`: after the address stands *, a port from 1 to 65535, or two such as 80-90")]
    Ports(String),
}

impl PolicyError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Empty | Self::Verb(_) | Self::Pattern(_) => Kind::Misuse,
            Self::Address(_) | Self::Family(_) | Self::Ports(_) => Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Empty | Self::Verb(_) | Self::Pattern(_) => Retry::Never,
            Self::Address(_) | Self::Family(_) | Self::Ports(_) => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests;
