//! Whether a name's DNS sends browsers another way: an HTTPS record (RFC 9460) with `ech` or `h3` in it. Browsers would then send
//! another hello than a client's, or come by HTTP/3.
//!
//! The system's resolver functions cannot ask for such a record. So the question goes straight to the name servers of
//! `/etc/resolv.conf`, in one UDP datagram; it tells them a name that every visitor of the site asks for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::svcb::Https,
};
use qnet_wire::name::ServerName;
use tokio::{net::UdpSocket, time::timeout};

use crate::{connect::Connect, seed::seed};

/// How long all tries take together.
const LIMIT: Duration = Duration::from_secs(2);
/// Datagrams sent, to one name server after the other: UDP loses some.
const TRIES: u32 = 3;
/// Name servers asked: the C library's own number (`MAXNS`).
const MAX_SERVERS: usize = 3;
/// The largest answer asked for: what crosses every network in one piece (RFC 9715, section 3.2).
const MAX_ANSWER: u16 = 1_232;
/// Datagrams of others passed over, for each that was sent: who floods our port does not keep us at it.
const MAX_STRANGE: usize = 16;
const SYSTEM: &str = "/etc/resolv.conf";
const PORT: u16 = 53;

/// Whom to ask, and from which address.
#[derive(Clone, Debug)]
pub struct Resolver {
    servers: Option<Vec<SocketAddr>>,
    connect: Connect,
}

impl Resolver {
    /// The system's name servers, read anew for each question; from the source addresses of `connect`, and never through its
    /// proxy.
    #[must_use]
    pub fn system(connect: Connect) -> Self {
        Self { servers: None, connect }
    }

    /// These name servers, from the same addresses.
    #[must_use]
    pub fn at(servers: Vec<SocketAddr>, connect: Connect) -> Self {
        Self { servers: Some(servers), connect }
    }

    /// Looks up the HTTPS records of `name`; takes [`LIMIT`] at most.
    pub(super) async fn https_records(&self, name: &ServerName) -> Result<Verdict, LookupError> {
        timeout(LIMIT, self.ask_all(name)).await.unwrap_or(Err(LookupError::Silent))
    }

    async fn ask_all(&self, name: &ServerName) -> Result<Verdict, LookupError> {
        let servers = match &self.servers {
            Some(servers) => servers.clone(),
            None => name_servers(&std::fs::read_to_string(SYSTEM).map_err(LookupError::NoServers)?),
        };
        let mut outcome = Err(LookupError::Silent);
        for server in servers.iter().take(MAX_SERVERS).cycle().take(TRIES as usize) {
            let asked = timeout(LIMIT / TRIES, self.ask(*server, name)).await;
            outcome = asked.unwrap_or(Err(LookupError::Silent));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn ask(&self, server: SocketAddr, name: &ServerName) -> Result<Verdict, LookupError> {
        let [a, b, ..] = seed().map_err(|_| LookupError::Unasked)?;
        let query = question(name, u16::from_be_bytes([a, b])).ok_or(LookupError::Unasked)?;
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((self.connect.source(server.ip()).unwrap_or(any), 0)).await?;
        socket.connect(server).await?;
        socket.send(query.as_slice()).await?;
        let mut buffer = [0; MAX_ANSWER as usize];
        for _ in 0..MAX_STRANGE {
            let length = socket.recv(&mut buffer).await?;
            if let Some(outcome) = buffer.get(..length).and_then(|answer| read(answer, &query)) {
                return outcome;
            }
        }
        Err(LookupError::Silent)
    }
}

/// What a name's HTTPS records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing of ECH or HTTP/3, or there is none.
    Harmless,
    /// A key for Encrypted Client Hello.
    Ech,
    /// HTTP/3.
    Http3,
}

/// Why the records are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// There is no list of them.
    #[error("cannot read {SYSTEM}: {0}")]
    NoServers(io::Error),
    /// The question cannot be put.
    #[error("the question cannot be put")]
    Unasked,
    /// A datagram could not be sent, or came back.
    #[error("no name server is reached: {0}")]
    Io(#[from] io::Error),
    /// No answer.
    #[error("no answer from a name server within {} seconds", LIMIT.as_secs())]
    Silent,
    /// An answer that does not tell.
    #[error("the name server answers {0}")]
    Unable(Rcode),
    /// An answer that is cut short or no DNS message.
    #[error("the name server's answer cannot be read")]
    Unreadable,
}

/// The name servers of a `resolv.conf`: its lines `nameserver ADDRESS` (resolv.conf(5)).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        let word = words.next()?;
        // An address of one link needs that link's name or number after it.
        let with_port =
            if word.contains(':') { format!("[{word}]:{PORT}") } else { format!("{word}:{PORT}") };
        with_port.parse().ok()
    };
    let listed: Vec<SocketAddr> = text.lines().filter_map(address).collect();
    if listed.is_empty() { vec![(Ipv4Addr::LOCALHOST, PORT).into()] } else { listed }
}

fn question(name: &ServerName, id: u16) -> Option<Message<Vec<u8>>> {
    let name: Name<Vec<u8>> = name.as_str().parse().ok()?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, Rtype::HTTPS)).ok()?;
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(MAX_ANSWER);
            Ok(())
        })
        .ok()?;
    Some(builder.into_message())
}

/// What a datagram says to the question; `None`: it is not the answer to it.
fn read(datagram: &[u8], query: &Message<Vec<u8>>) -> Option<Result<Verdict, LookupError>> {
    let answer = Message::from_slice(datagram).ok().filter(|answer| answer.is_answer(query))?;
    Some(match answer.header().rcode() {
        Rcode::NOERROR if answer.header().tc() => Err(LookupError::Unreadable),
        Rcode::NOERROR => verdict(answer).ok_or(LookupError::Unreadable),
        Rcode::NXDOMAIN => Ok(Verdict::Harmless),
        other => Err(LookupError::Unable(other)),
    })
}

/// Records in alias form (priority 0) say nothing of either, and Chrome does not follow them.
fn verdict(answer: &Message<[u8]>) -> Option<Verdict> {
    let mut found = Verdict::Harmless;
    for record in answer.answer().ok()?.limit_to_in::<Https<_, _>>() {
        let record = record.ok()?;
        let params = record.data().params();
        if params.ech().is_some() {
            return Some(Verdict::Ech);
        }
        let http3 = |protocol: &[u8]| protocol == b"h3" || protocol.starts_with(b"h3-");
        if params.alpn().is_some_and(|protocols| protocols.iter().any(http3)) {
            found = Verdict::Http3;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use domain::{
        base::Ttl,
        rdata::svcb::{SvcParams, SvcParamsBuilder},
    };
    use proptest::prelude::*;

    use super::*;

    fn asked() -> Message<Vec<u8>> {
        question(&"www.example.com".parse().unwrap(), 7).unwrap()
    }

    /// An answer with one HTTPS record.
    fn answer(rcode: Rcode, params: impl FnOnce(&mut SvcParamsBuilder<Vec<u8>>)) -> Vec<u8> {
        let query = asked();
        let mut values = SvcParamsBuilder::empty();
        params(&mut values);
        let values: SvcParams<Vec<u8>> = values.freeze().unwrap();
        let record = Https::new(1, Name::<Vec<u8>>::root_vec(), values).unwrap();
        let mut builder = MessageBuilder::new_vec().start_answer(&query, rcode).unwrap();
        let owner: Name<Vec<u8>> = "www.example.com".parse().unwrap();
        builder.push((owner, Ttl::from_secs(60), record)).unwrap();
        builder.finish()
    }

    fn said(datagram: &[u8]) -> Option<Result<Verdict, String>> {
        read(datagram, &asked()).map(|outcome| outcome.map_err(|error| error.to_string()))
    }

    #[test]
    fn ech_and_http3_are_found() {
        let h2 = answer(Rcode::NOERROR, |params| params.alpn(&[b"h2"]).unwrap());
        assert_eq!(said(&h2), Some(Ok(Verdict::Harmless)));
        let h3 = answer(Rcode::NOERROR, |params| params.alpn(&[b"h3", b"h2"]).unwrap());
        assert_eq!(said(&h3), Some(Ok(Verdict::Http3)));
        let both = answer(Rcode::NOERROR, |params| {
            params.alpn(&[b"h3"]).unwrap();
            params.ech(&[0xfe, 0x0d]).unwrap();
        });
        assert_eq!(said(&both), Some(Ok(Verdict::Ech)));
    }

    #[test]
    fn no_such_name_is_an_answer_and_a_failure_is_none() {
        assert_eq!(said(&answer(Rcode::NXDOMAIN, |_| {})), Some(Ok(Verdict::Harmless)));
        let failed = said(&answer(Rcode::SERVFAIL, |_| {}));
        assert_eq!(failed, Some(Err("the name server answers SERVFAIL".into())));
        let mut cut = answer(Rcode::NOERROR, |_| {});
        cut[2] |= 2;
        assert!(matches!(said(&cut), Some(Err(_))));
    }

    #[test]
    fn who_does_not_know_the_question_is_not_heard() {
        let mut other = answer(Rcode::NOERROR, |_| {});
        other[1] ^= 1;
        assert_eq!(said(&other), None);
        assert_eq!(said(asked().as_slice()), None);
    }

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nnameserver x\n";
        let listed = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|address| address.parse().unwrap());
        assert_eq!(name_servers(text), listed);
        assert_eq!(name_servers("options edns0\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn no_datagram_panics(
            place in any::<prop::sample::Index>(),
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            length in any::<prop::sample::Index>(),
        ) {
            let mut datagram = answer(Rcode::NOERROR, |params| {
                params.alpn(&[b"h3", b"h2"]).unwrap();
                params.ech(&[0xfe, 0x0d]).unwrap();
            });
            // The header and the question as they are, so that the rest is looked at.
            let question = 12 + 17 + 4;
            let at = question + place.index(datagram.len() - question);
            for (old, new) in datagram.iter_mut().skip(at).zip(&bytes) {
                *old = *new;
            }
            datagram.truncate(question + length.index(datagram.len() - question + 1));
            prop_assert!(said(&datagram).is_some());
        }
    }
}
