use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A ClientHello by its outside: type and length are right.
fn message(length: usize) -> Vec<u8> {
    let mut message = vec![0x5a; length];
    let body = u32::try_from(length - MESSAGE_HEADER).unwrap().to_be_bytes();
    message[..MESSAGE_HEADER].copy_from_slice(&[1, body[1], body[2], body[3]]);
    message
}

fn record(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[HANDSHAKE, 3, 1], &length[..], content].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// Pushes pieces of the given size; what came last and after how many bytes.
fn push_by(stream: &[u8], size: usize) -> (Progress, usize) {
    let mut assembler = Assembler::client();
    let mut pushed = 0;
    for piece in stream.chunks(size) {
        pushed += piece.len();
        let progress = assembler.push(piece);
        if progress != Progress::More {
            assert_eq!(assembler.push(piece), Progress::NotTls, "it is asked only once");
            return (progress, pushed);
        }
    }
    (Progress::More, pushed)
}

#[test]
fn every_way_to_split_records_and_segments_gives_the_same_message() {
    let raw = message(83);
    for record_size in 1..=raw.len() {
        let stream = records(&raw, record_size);
        for segment in 1..=stream.len() {
            let (progress, pushed) = push_by(&stream, segment);
            assert_eq!(progress, Progress::Message { raw: raw.clone(), end: stream.len() });
            assert_eq!(pushed, stream.len(), "not before the last byte");
        }
        for cut in 0..=stream.len() {
            let mut assembler = Assembler::client();
            let first = assembler.push(&stream[..cut]);
            assert_eq!(first == Progress::More, cut < stream.len());
        }
    }
}

#[test]
fn what_follows_the_last_record_is_not_counted() {
    let raw = message(60);
    let mut stream = records(&raw, 32);
    let end = stream.len();
    stream.extend(b"\x14\x03\x03\x00\x01\x01 and more");
    assert_eq!(Assembler::client().push(&stream), Progress::Message { raw, end });
}

#[test]
fn the_longest_message_is_exact() {
    let raw = message(MAX_MESSAGE);
    let stream = records(&raw, MAX_RECORD);
    assert_eq!(Assembler::client().push(&stream), Progress::Message { end: stream.len(), raw: raw.clone() });
    let ones = records(&raw, 1);
    assert_eq!(Assembler::client().push(&ones), Progress::Message { raw, end: 6 * MAX_MESSAGE });

    // One byte more is known from the message's own header.
    let stream = records(&message(MAX_MESSAGE + 1), 4);
    assert_eq!(push_by(&stream, 1), (Progress::NotTls, RECORD_HEADER + MESSAGE_HEADER));
}

#[test]
fn strangers_are_let_go_at_the_first_byte_that_is_wrong() {
    let raw = message(60);
    let good = record(&raw);
    for (at, wrong, known_after) in [
        (0, 0x17, 1), // another content type
        (0, b'G', 1), // plain HTTP
        (1, 2, 2),    // no version of TLS
        (4, 0, 5),    // an empty record
        (3, 0x40, 5), // a record longer than records may be
        (4, 61, 9),   // a record that goes on behind the message
        (5, 2, 6),    // a ServerHello
        (6, 1, 9),    // a message of 64 KiB
    ] {
        let mut stream = good.clone();
        stream[at] = wrong;
        assert_eq!(push_by(&stream, 1), (Progress::NotTls, known_after), "byte {at}");
        assert_eq!(Assembler::client().push(&stream), Progress::NotTls);
    }
    // The message must end where its record ends, in its second record too.
    let mut stream = record(&raw[..30]);
    stream.extend(record(&[&raw[30..], &[0]].concat()));
    assert_eq!(Assembler::client().push(&stream), Progress::NotTls);
    // An empty record or one of another type between two of the message's.
    for between in [&[HANDSHAKE, 3, 1, 0, 0][..], &[20, 3, 3, 0, 1, 1]] {
        let stream = [&record(&raw[..30])[..], between, &record(&raw[30..])].concat();
        assert_eq!(Assembler::client().push(&stream), Progress::NotTls);
    }
}

#[test]
fn each_side_waits_for_its_own_hello() {
    let mut stream = record(&message(60));
    assert_eq!(Assembler::server().push(&stream), Progress::NotTls);
    stream[5] = 2;
    assert!(matches!(Assembler::server().push(&stream), Progress::Message { .. }));
    assert_eq!(Assembler::server().push(b"\x15\x03\x03\x00\x02\x02\x28"), Progress::NotTls);
    assert_eq!(Assembler::server().push(&[]), Progress::More);
}

proptest! {
    #[test]
    fn any_cut_into_records_and_segments_gives_the_message(
        length in 4_usize..3000, record_sizes in vec(1_usize..700, 1..20), segments in vec(1_usize..900, 1..20),
    ) {
        let raw = message(length);
        let (mut rest, mut stream) = (&raw[..], Vec::new());
        for size in record_sizes.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*size));
            stream.extend(record(piece));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let (mut assembler, mut rest, mut last) = (Assembler::client(), &stream[..], Progress::More);
        for size in segments.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*size));
            prop_assert_eq!(&last, &Progress::More);
            last = assembler.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(last, Progress::Message { raw, end: stream.len() });
    }

    #[test]
    fn any_bytes_are_judged_alike_however_they_are_cut(
        start in prop::sample::select(vec![&b""[..], b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x00", b"\x16\x03\x03\x00\x09\x01\x00\x00"]),
        bytes in vec(any::<u8>(), 0..200), segment in 1_usize..20,
    ) {
        let stream = [start, &bytes].concat();
        let (progress, _) = push_by(&stream, segment);
        prop_assert_eq!(progress, Assembler::client().push(&stream));
    }
}
