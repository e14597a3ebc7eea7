//! What applications send to the proxy of who has no tor: HTTP heads and datagrams. (Its SOCKS5 is `pt::socks`.)

use qnet::datagram::{from_frame, to_frame};
use qnet::http_head::{MAX_HEAD, Status, parse};

/// An application's first bytes, as HTTP.
pub fn http_head(data: &[u8]) {
    match parse(data) {
        Ok(Some(asked)) => {
            assert!(asked.length <= data.len().min(MAX_HEAD));
            assert!(parse(&data[..asked.length]) == parse(data), "what follows a head changes nothing");
            let Some(head) = asked.head else { return };
            let end = head.windows(4).position(|four| four == b"\r\n\r\n");
            assert_eq!(end, Some(head.len() - 4), "one head, and nothing behind it");
            // The lines may have ended in LF alone, and the path been empty.
            assert!(head.len() <= 2 * asked.length + 64);
        }
        Ok(None) => assert!(data.len() < MAX_HEAD),
        Err(Status(line, _)) => assert!(line.starts_with('4') && !line.contains(['\r', '\n'])),
    }
}

/// An application's datagram, then bytes of a stream that carries such.
pub fn datagram(data: &[u8]) {
    let (mut frame, mut back) = (Vec::new(), Vec::new());
    if to_frame(data, &mut frame) {
        let length = from_frame(&frame, &mut back).expect("what was written can be read");
        assert!(length == Some(frame.len()) && back == data);
    }
    let mut rest = data;
    while let Ok(Some(length)) = from_frame(rest, &mut back) {
        frame.clear();
        assert!(to_frame(&back, &mut frame) && frame == rest[..length]);
        rest = &rest[length..];
    }
}
