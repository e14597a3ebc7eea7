//! A ClientHello taken apart by fields (RFC 8446, section 4.1.2), to be damaged at each of them.

use std::ops::Range;

use anyhow::{Context, Result};

use crate::support::flow::HEADER;

/// A part of a ClientHello record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its bytes in the record, header included; never empty.
    pub at: Range<usize>,
}

/// Every field of a ClientHello that lies in one record, in order, without gaps.
///
/// # Errors
/// It is not a ClientHello.
pub fn fields(hello: &[u8]) -> Result<Vec<Field>> {
    let mut cursor = Cursor { hello, at: 0, fields: Vec::new() };
    for (name, length) in [
        ("record type", 1),
        ("record version", 2),
        ("record length", 2),
        ("message type", 1),
        ("message length", 3),
        ("version", 2),
        ("random", 32),
    ] {
        cursor.take(name, length)?;
    }
    cursor.vector("session id", 1)?;
    cursor.vector("cipher suites", 2)?;
    cursor.vector("compression methods", 1)?;
    cursor.take("extensions' length", 2)?;
    while cursor.at < hello.len() {
        let kind = cursor.number(2)?;
        let name = format!("extension {kind}");
        cursor.take(&format!("{name}'s type"), 2)?;
        cursor.vector(&name, 2)?;
    }
    Ok(cursor.fields)
}

/// The hello with another body for extension `kind`, all lengths set right.
///
/// # Errors
/// It is not a ClientHello in one record, or has no such extension.
pub fn with_extension(hello: &[u8], kind: u16, body: &[u8]) -> Result<Vec<u8>> {
    let found = fields(hello)?;
    let named = |name: String| found.iter().find(|field| field.name == name).map(|field| field.at.clone());
    let length =
        named(format!("extension {kind}'s length")).with_context(|| format!("no extension {kind}"))?;
    let end = named(format!("extension {kind}")).map_or(length.end, |at| at.end);
    let mut out = [hello.get(..length.start), hello.get(end..)].map(Option::unwrap_or_default).concat();
    let inserted = [&u16::try_from(body.len())?.to_be_bytes()[..], body].concat();
    out.splice(length.start..length.start, inserted);
    let all = named("extensions' length".into()).context("no extensions")?;
    for at in [HEADER - 2..HEADER, HEADER + 1..HEADER + 4, all] {
        let value = u32::try_from(out.len() - at.end)?.to_be_bytes();
        let width = at.len();
        let bytes = out.get_mut(at).context("a length")?;
        bytes.copy_from_slice(value.get(4 - width..).context("a width")?);
    }
    Ok(out)
}

/// The hello cut into records of at most `piece` bytes, which is legal (RFC 8446, section 5.1).
#[must_use]
pub fn in_records(hello: &[u8], piece: usize) -> Vec<u8> {
    let (header, message) = hello.split_at(HEADER.min(hello.len()));
    let version = header.get(..3).unwrap_or_default();
    message
        .chunks(piece.max(1))
        .flat_map(|part| {
            [version, &u16::try_from(part.len()).unwrap_or_default().to_be_bytes(), part].concat()
        })
        .collect()
}

struct Cursor<'a> {
    hello: &'a [u8],
    at: usize,
    fields: Vec<Field>,
}

impl Cursor<'_> {
    fn take(&mut self, name: &str, length: usize) -> Result<()> {
        let end = self.at + length;
        self.hello.get(self.at..end).with_context(|| format!("the hello ends within {name}"))?;
        if length > 0 {
            self.fields.push(Field { name: name.to_owned(), at: self.at..end });
        }
        self.at = end;
        Ok(())
    }

    /// The number in the next `width` bytes, which are not taken.
    fn number(&self, width: usize) -> Result<usize> {
        let bytes = self.hello.get(self.at..self.at + width).context("the hello ends within a number")?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<()> {
        let length = self.number(width)?;
        self.take(&format!("{name}'s length"), width)?;
        self.take(name, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::visitor::Visitor;

    #[test]
    fn the_fields_cover_a_hello_without_gaps() {
        let hello = Visitor::new("www.example.com").hello().unwrap();
        let fields = fields(&hello).unwrap();
        let mut at = 0;
        for field in &fields {
            assert_eq!(field.at.start, at, "{field:?}");
            at = field.at.end;
        }
        assert_eq!(at, hello.len());
        for name in ["extension 0", "extension 51", "extension 65037", "cipher suites"] {
            assert!(fields.iter().any(|field| field.name == name), "{name}");
        }
    }

    #[test]
    fn a_changed_hello_is_a_hello() {
        let hello = Visitor::new("www.example.com").hello().unwrap();
        let changed = with_extension(&hello, 51, &[0, 0]).unwrap();
        let share = fields(&changed).unwrap().into_iter().find(|field| field.name == "extension 51").unwrap();
        assert_eq!(&changed[share.at], &[0, 0]);
        assert_eq!(usize::from(u16::from_be_bytes([changed[3], changed[4]])), changed.len() - 5);
        let split = in_records(&hello, 100);
        assert_eq!(split.len(), hello.len() - 5 + (hello.len() - 5).div_ceil(100) * 5);
    }
}
