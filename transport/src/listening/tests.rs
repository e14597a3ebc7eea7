use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::*;

const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x9c\x42\x01\xbb";

/// What a listener behind `balancers` makes of a connection from 127.0.0.1 that sends this, and what is left to read.
async fn meets(balancers: &[&str], pieces: &[&[u8]]) -> (Option<SocketAddr>, Vec<u8>) {
    let listening = Listening::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listening =
        listening.behind(&balancers.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>());
    let mut client = TcpStream::connect(listening.local_addr()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (tcp, balancers) = listening.split();
    let (mut accepted, peer) = tcp.accept().await.unwrap();
    let send = async {
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let (found, ()) = tokio::join!(balancers.client(&mut accepted, peer), send);
    let mut rest = Vec::new();
    accepted.read_to_end(&mut rest).await.unwrap();
    (found.filter(|found| *found != peer || balancers.addresses.is_empty()), rest)
}

#[tokio::test]
async fn a_balancer_says_whose_a_connection_is_and_nothing_of_the_clients_is_lost() {
    let client = Some("192.0.2.7:40002".parse().unwrap());
    for balancers in [&["127.0.0.1"][..], &["192.0.2.1", "::ffff:127.0.0.1"]] {
        let whole = [HEADER, b"hello"].concat();
        assert_eq!(meets(balancers, &[&whole]).await, (client, b"hello".to_vec()));
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(meets(balancers, &bytes).await, (client, b"hello".to_vec()));
    }
}

#[tokio::test]
async fn a_balancer_that_only_looks_has_no_connection() {
    const OWN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let listening = Listening::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (tcp, balancers) = listening.behind(&["127.0.0.1".parse().unwrap()]).split();
    for (more, expected) in [(&b""[..], false), (b"hello", true)] {
        let mut balancer = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
        balancer.write_all(&[OWN, more].concat()).await.unwrap();
        balancer.shutdown().await.unwrap();
        let (mut accepted, peer) = tcp.accept().await.unwrap();
        assert_eq!(balancers.client(&mut accepted, peer).await, expected.then_some(peer));
    }
}

#[tokio::test]
async fn without_balancers_a_header_is_what_a_client_sent() {
    let (found, rest) = meets(&[], &[HEADER]).await;
    assert!(found.is_some_and(|found| found.ip().is_loopback()));
    assert_eq!(rest, HEADER);
}

#[tokio::test]
async fn strangers_and_what_is_no_header_are_not_taken() {
    let (found, rest) = meets(&["192.0.2.1"], &[HEADER]).await;
    assert_eq!((found, rest.as_slice()), (None, HEADER), "read of a stranger");
    for sent in [&b"\x16\x03\x01"[..], b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n", b"", &HEADER[..20]] {
        assert_eq!(meets(&["127.0.0.1"], &[sent]).await.0, None, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let listening = Listening::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listening = listening.behind(&["127.0.0.1".parse().unwrap()]);
    let mut client = TcpStream::connect(listening.local_addr()).await.unwrap();
    client.write_all(&HEADER[..10]).await.unwrap();
    let (tcp, balancers) = listening.split();
    let (mut accepted, peer) = tcp.accept().await.unwrap();
    let begun = Instant::now();
    assert_eq!(balancers.client(&mut accepted, peer).await, None);
    assert_eq!(begun.elapsed().as_secs(), HEADER_LIMIT.as_secs());
}
