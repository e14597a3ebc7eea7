//! Encoder and decoder together, and against what is not HPACK.

use super::HpackError;
use super::decode::Decoder;
use super::encode::{Encoder, integer};
use proptest::prelude::*;

type List = Vec<(Vec<u8>, Vec<u8>)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<List, HpackError> {
    let mut list = Vec::new();
    decoder.decode(block, |name, value| list.push((name.to_vec(), value.to_vec())))?;
    Ok(list)
}

#[test]
fn malformed_blocks_are_refused() {
    for block in [
        &[0x80][..],                           // index 0
        &[0xbe],                               // an entry that was never added
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // an integer without end
        &[0x40, 0x05, b'a'],                   // a name cut short
        &[0x42],                               // no value
        &[0x40, 0x81, 0x00, 0x00],             // a bad filling
        &[0x82, 0x20],                         // a table size after a field
        &[0x3f, 0xe1, 0xff, 0xff, 0x07],       // a table beyond what SETTINGS grant
    ] {
        assert_eq!(decode(&mut Decoder::new(), block), Err(HpackError::Malformed), "{block:x?}");
    }
}

#[test]
fn a_block_that_repeats_a_large_entry_is_refused() {
    let mut block = vec![0x40];
    integer(0, 7, 1, &mut block);
    block.push(b'a');
    integer(0, 7, 3000, &mut block);
    block.extend(std::iter::repeat_n(b'x', 3000));
    assert!(decode(&mut Decoder::new(), &block).is_ok());
    block.extend(std::iter::repeat_n(0xbe, 100));
    assert_eq!(decode(&mut Decoder::new(), &block), Err(HpackError::TooLarge));
}

#[test]
fn table_sizes_are_announced_smallest_first() {
    let mut encoder = Encoder::new();
    encoder.set_table_size(4096);
    let mut block = Vec::new();
    encoder.begin(&mut block);
    assert!(block.is_empty(), "nothing changed");
    encoder.set_table_size(100);
    encoder.set_table_size(5000);
    encoder.begin(&mut block);
    assert_eq!(block, [0x3f, 100 - 31, 0x3f, 0xe9, 0x26]);
    block.clear();
    encoder.begin(&mut block);
    assert!(block.is_empty(), "announced once");
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("cookie".to_owned()),
        Just("accept".to_owned()),
        "[a-z-]{1,12}",
        Just(":path".to_owned())
    ]
}

proptest! {
    #[test]
    fn both_ends_agree_through_evictions(
        lists in proptest::collection::vec(proptest::collection::vec((name(), "[ -~]{0,600}"), 0..12), 1..12),
        sizes in proptest::collection::vec(proptest::option::of(0u32..9000), 12),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (list, size) in lists.iter().zip(sizes) {
            if let Some(size) = size {
                encoder.set_table_size(size);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (name, value) in list {
                encoder.field(name, value, &mut block);
            }
            let wanted: List =
                list.iter().map(|(n, v)| (n.clone().into_bytes(), v.clone().into_bytes())).collect();
            prop_assert_eq!(decode(&mut decoder, &block).unwrap(), wanted);
        }
    }

    #[test]
    fn any_bytes_never_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..5)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let _ = decode(&mut decoder, &block);
        }
    }
}
