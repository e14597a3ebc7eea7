use proptest::prelude::*;

use super::*;

fn read(content: &[u8]) -> Result<Vec<Frame<'_>>, FrameError> {
    frames(content).collect()
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// An owned recipe of a frame, for strategies.
#[derive(Clone, Debug)]
enum Recipe {
    Padding,
    Stream(u64, Vec<u8>),
    WindowUpdate(u64, u64),
    Ping(bool, [u8; 8]),
    Close(u64, u8),
    Decoy(Vec<u8>),
    Handover(Handover),
    Segment(bool, u64, Vec<u8>),
    Ack(u64),
    Join(Join),
    Refused,
    End,
    Shape(u8, u16),
}

impl Recipe {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Padding => Frame::Padding,
            Self::Stream(id, data) => Frame::Stream { id: *id, data },
            Self::WindowUpdate(id, increment) => Frame::WindowUpdate { id: *id, increment: *increment },
            Self::Ping(answer, data) => Frame::Ping { answer: *answer, data: *data },
            Self::Close(id, code) => Frame::Close { id: *id, code: *code },
            Self::Decoy(data) => Frame::Decoy(data),
            Self::Handover(handover) => Frame::Handover(handover.clone()),
            Self::Segment(more, position, bytes) => {
                Frame::Segment { more: *more, position: *position, bytes }
            }
            Self::Ack(position) => Frame::Ack { position: *position },
            Self::Join(join) => Frame::Join(join.clone()),
            Self::Refused => Frame::Refused,
            Self::End => Frame::End,
            Self::Shape(profile, version) => Frame::Shape { profile: *profile, version: *version },
        }
    }
}

fn handover() -> impl Strategy<Value = Handover> {
    (0x1301u16..=0x1303, any::<u32>(), any::<u64>(), any::<u64>(), any::<[u8; 32]>()).prop_map(
        |(suite, requests, up_first, down_first, seed)| {
            let length = Handover::secret_len(suite).unwrap();
            let secret = |mask: u8| {
                Zeroizing::new(seed.iter().cycle().take(length).map(|byte| byte ^ mask).collect::<Vec<u8>>())
            };
            Handover {
                suite,
                requests,
                up_first,
                down_first,
                up_secret: secret(0),
                down_secret: secret(0xff),
            }
        },
    )
}

fn join() -> impl Strategy<Value = Join> {
    (any::<u8>(), any::<[u8; 16]>(), varint(), varint(), any::<[u8; 32]>())
        .prop_map(|(mode, id, carrier, next, mac)| Join { mode, id, carrier, next, mac })
}

/// Varints of every length, ends included.
fn varint() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..0x40u64,
        0..0x4000u64,
        0..0x4000_0000u64,
        0..=MAX_VARINT,
        prop::sample::select(vec![0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, MAX_VARINT]),
    ]
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        Just(Recipe::Padding),
        (varint(), bytes()).prop_map(|(id, data)| Recipe::Stream(id, data)),
        (varint(), varint()).prop_map(|(id, increment)| Recipe::WindowUpdate(id, increment)),
        any::<(bool, [u8; 8])>().prop_map(|(answer, data)| Recipe::Ping(answer, data)),
        (varint(), any::<u8>()).prop_map(|(id, code)| Recipe::Close(id, code)),
        bytes().prop_map(Recipe::Decoy),
        handover().prop_map(Recipe::Handover),
        (any::<bool>(), varint(), bytes())
            .prop_map(|(more, position, bytes)| Recipe::Segment(more, position, bytes)),
        varint().prop_map(Recipe::Ack),
        join().prop_map(Recipe::Join),
        Just(Recipe::Refused),
        Just(Recipe::End),
        any::<(u8, u16)>().prop_map(|(profile, version)| Recipe::Shape(profile, version)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(recipes in prop::collection::vec(recipe(), 0..8), update in any::<bool>()) {
        let mut wanted: Vec<Frame<'_>> = recipes.iter().map(Recipe::frame).collect();
        if update {
            wanted.push(Frame::KeyUpdate);
        }
        let mut content = Vec::new();
        for frame in &wanted {
            let before = content.len();
            frame.encode(&mut content);
            prop_assert_eq!(content.len() - before, frame.encoded_len());
        }
        prop_assert_eq!(read(&content), Ok(wanted));
    }

    #[test]
    fn a_cut_frame_is_truncated(recipe in recipe(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&recipe.frame());
        let cut = 1 + cut.index(whole.len() - 1);
        prop_assert_eq!(read(&whole[..cut]), Err(FrameError::Truncated));
    }

    #[test]
    fn mutated_bytes_never_panic(
        recipes in prop::collection::vec(recipe(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut content = Vec::new();
        for recipe in &recipes {
            recipe.frame().encode(&mut content);
        }
        for (at, value) in changes {
            let at = at.index(content.len());
            content[at] = value;
        }
        for frame in frames(&content).flatten() {
            // What reads well can be written again, and never grows: shortest varints, padding emptied.
            prop_assert!(frame.encoded_len() <= content.len());
            let again = encoded(&frame);
            prop_assert_eq!(read(&again), Ok(vec![frame]));
        }
    }

    #[test]
    fn random_bytes_never_panic(content in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(frames(&content).count() <= content.len() / HEADER_LEN + 1);
    }
}

/// The wire, byte for byte.
#[test]
fn pinned_bytes() {
    let join = Join { mode: 1, id: *b"0123456789abcdef", carrier: 3, next: 70, mac: [b'm'; 32] };
    let cases: [(Frame<'_>, &[u8]); 13] = [
        (Frame::Padding, &[0, 0, 0, 0]),
        (Frame::Stream { id: 1, data: b"ab" }, &[0, 0, 3, 1, 1, b'a', b'b']),
        (Frame::Stream { id: 15_293, data: b"" }, &[0, 0, 2, 1, 0x7b, 0xbd]),
        (Frame::WindowUpdate { id: 0, increment: 494_878_333 }, &[0, 0, 5, 2, 0, 0x9d, 0x7f, 0x3e, 0x7d]),
        (Frame::Ping { answer: true, data: *b"12345678" }, b"\0\0\x09\x03\x0112345678"),
        (Frame::KeyUpdate, &[0, 0, 0, 4]),
        (
            Frame::Close { id: 151_288_809_941_952_652, code: 3 },
            &[0, 0, 9, 5, 0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c, 3],
        ),
        (Frame::Decoy(&[0x17]), &[0, 0, 1, 6, 0x17]),
        (Frame::Segment { more: true, position: 64, bytes: b"ab" }, &[0, 0, 5, 8, 1, 0x40, 0x40, b'a', b'b']),
        (Frame::Ack { position: 7 }, &[0, 0, 1, 9, 7]),
        (Frame::Join(join), b"\0\0\x34\x0a\x010123456789abcdef\x03\x40\x46mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"),
        (Frame::Refused, &[0, 0, 0, 11]),
        (Frame::End, &[0, 0, 0, 12]),
    ];
    for (frame, bytes) in cases {
        assert_eq!(encoded(&frame), bytes);
        assert_eq!(read(bytes), Ok(vec![frame]));
    }
}

#[test]
fn varints_need_not_be_minimal() {
    for id in [&[0x07][..], &[0x40, 0x07], &[0x80, 0, 0, 0x07], &[0xc0, 0, 0, 0, 0, 0, 0, 0x07]] {
        let mut content = vec![0, 0, u8::try_from(id.len() + 1).unwrap(), CLOSE];
        content.extend_from_slice(id);
        content.push(1);
        assert_eq!(read(&content), Ok(vec![Frame::Close { id: 7, code: 1 }]));
    }
}

#[test]
fn wrong_bodies_are_refused() {
    let mut long_window_update = encoded(&Frame::WindowUpdate { id: 1, increment: 1 });
    long_window_update[2] += 1;
    long_window_update.push(0);
    let cases: [(&[u8], FrameError); 18] = [
        (&[0, 0, 0, STREAM], FrameError::Malformed(STREAM)),
        (&[0, 0, 1, STREAM, 0x40], FrameError::Malformed(STREAM)),
        (&long_window_update, FrameError::Malformed(WINDOW_UPDATE)),
        (&[0, 0, 1, CLOSE, 1], FrameError::Malformed(CLOSE)),
        (&[0, 0, 9, PING, 2, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Malformed(PING)),
        (&[0, 0, 1, KEY_UPDATE, 0], FrameError::Malformed(KEY_UPDATE)),
        (&[0, 0, 0, KEY_UPDATE, 0, 0, 0, PADDING], FrameError::NotLast),
        (&[0, 0, 1, SEGMENT, 0], FrameError::Malformed(SEGMENT)),
        (&[0, 0, 2, SEGMENT, 2, 0], FrameError::Malformed(SEGMENT)),
        (&[0, 0, 0, ACK], FrameError::Malformed(ACK)),
        (&[0, 0, 2, ACK, 1, 1], FrameError::Malformed(ACK)),
        (&[0, 0, 1, REFUSED, 0], FrameError::Malformed(REFUSED)),
        (&[0, 0, 1, END, 0], FrameError::Malformed(END)),
        (&[0, 0, 1, JOIN, 0], FrameError::Malformed(JOIN)),
        (&[0, 0, 2, SHAPE, 0, 0], FrameError::Malformed(SHAPE)),
        (&[0, 0, 4, SHAPE, 0, 0, 0, 0], FrameError::Malformed(SHAPE)),
        (&[0, 0, 0, 14], FrameError::UnknownType(14)),
        (&[0, 0, 0], FrameError::Truncated),
    ];
    for (content, error) in cases {
        assert_eq!(read(content), Err(error), "{content:?}");
        let mut iterator = frames(content);
        while let Some(Ok(_)) = iterator.next() {}
        assert_eq!(iterator.next(), None, "an error is the end");
    }
}

#[test]
fn a_handover_names_a_suite_of_its_secrets_length() {
    let good = Handover {
        suite: 0x1301,
        requests: 7,
        up_first: 9,
        down_first: 12,
        up_secret: Zeroizing::new(vec![1; 32]),
        down_secret: Zeroizing::new(vec![2; 32]),
    };
    let bytes = encoded(&Frame::Handover(good.clone()));
    assert_eq!(bytes.len(), HEADER_LEN + 22 + 33 + 33);
    assert_eq!(read(&bytes), Ok(vec![Frame::Handover(good.clone())]));
    for (at, value) in [(5, 0x02), (5, 0x04), (26, 31), (26, 48), (59, 33)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert_eq!(read(&bad), Err(FrameError::Malformed(HANDOVER)), "byte {at}");
    }
    assert!(!format!("{good:?}").contains("secret"));
}

#[test]
fn padding_of_any_size() {
    for total in 0..2_000 {
        let mut out = Vec::new();
        encode_padding(total, &mut out);
        if total < HEADER_LEN {
            assert!(out.is_empty());
        } else {
            assert_eq!(out.len(), total);
            assert_eq!(read(&out), Ok(vec![Frame::Padding]));
        }
    }
}
