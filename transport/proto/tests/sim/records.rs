//! What an observer sees of a stream: records.

/// The outer types and length fields of the whole records of a stream.
pub(crate) fn records(mut stream: &[u8]) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    while let [kind, _, _, high, low, ..] = *stream {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if stream.len() < 5 + length {
            break;
        }
        found.push((kind, length));
        stream = &stream[5 + length..];
    }
    found
}

/// The length fields of the protected ones.
pub(crate) fn lengths(stream: &[u8]) -> Vec<usize> {
    records(stream).into_iter().filter(|(kind, _)| *kind == 23).map(|(_, length)| length).collect()
}
