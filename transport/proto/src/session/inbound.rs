//! What arrives: in order, once, whatever carrier brought it.

use std::collections::BTreeMap;

use super::window;
use crate::frame::{self, frames};
use crate::mux::{Mux, Violation};
use crate::record::MAX_CONTENT;

/// Pieces kept out of order, at most. Adjacent ones are one; striping makes one for each record of a slower carrier that
/// is on its way, and a socket holds some hundreds. What goes beyond is dropped: the gap before it stays, its carrier
/// counts as stalled, and the next one brings all of it again.
const MAX_PIECES: usize = 4_096;

/// The receiving end of a session's bytes.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// The position that is expected next.
    next: u64,
    /// The beginning of a frame that is not whole.
    partial: Vec<u8>,
    /// What came too early.
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
}

impl Inbound {
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether bytes came that others must come before.
    pub(super) fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes `bytes` that stand at `position` and gives the streams what is whole.
    pub(super) fn take(&mut self, position: u64, bytes: &[u8], mux: &mut Mux) -> Result<(), Violation> {
        let end = position.checked_add(bytes.len() as u64).ok_or(Violation::BeyondWindow)?;
        if end.saturating_sub(self.next) > window::most(self.next) + MAX_CONTENT as u64 {
            return Err(Violation::BeyondWindow);
        }
        if position > self.next {
            return self.keep(position, bytes);
        }
        let known = usize::try_from(self.next - position).unwrap_or(usize::MAX);
        let Some(fresh) = bytes.get(known..).filter(|fresh| !fresh.is_empty()) else { return Ok(()) };
        self.compare(self.next, fresh)?;
        self.feed(fresh, mux)?;
        self.catch_up(mux)
    }

    /// Hands on what came too early and is no longer.
    fn catch_up(&mut self, mux: &mut Mux) -> Result<(), Violation> {
        while let Some(entry) = self.early.first_entry() {
            let position = *entry.key();
            if position > self.next {
                break;
            }
            let piece = entry.remove();
            self.early_bytes -= piece.len();
            let known = usize::try_from(self.next - position).unwrap_or(usize::MAX);
            if let Some(fresh) = piece.get(known..) {
                self.feed(fresh, mux)?;
            }
        }
        Ok(())
    }

    /// Whether `bytes` at `position` are those that are kept already, where they overlap.
    fn compare(&self, position: u64, bytes: &[u8]) -> Result<(), Violation> {
        let end = position + bytes.len() as u64;
        for (at, piece) in self.early.range(..end).rev() {
            let piece_end = at + piece.len() as u64;
            if piece_end <= position {
                break;
            }
            let (from, to) = (position.max(*at), end.min(piece_end));
            if part(bytes, from - position, to - position) != part(piece, from - at, to - at) {
                return Err(Violation::OtherData);
            }
        }
        Ok(())
    }

    /// Keeps what came too early, as far as it is not kept already.
    fn keep(&mut self, position: u64, bytes: &[u8]) -> Result<(), Violation> {
        self.compare(position, bytes)?;
        let (mut at, mut rest) = (position, bytes);
        while !rest.is_empty() {
            // Past what a piece before already has.
            if let Some((start, piece)) = self.early.range(..=at).next_back() {
                let known = (start + piece.len() as u64).saturating_sub(at);
                if known > 0 {
                    let skip = usize::try_from(known).unwrap_or(usize::MAX).min(rest.len());
                    (at, rest) = (at + skip as u64, rest.split_at(skip).1);
                    continue;
                }
            }
            let room = self.early.range(at..).next().map_or(u64::MAX, |(start, _)| start - at);
            let count = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (fresh, later) = rest.split_at(count);
            self.insert(at, fresh);
            (at, rest) = (at + count as u64, later);
        }
        Ok(())
    }

    /// Nothing of it is kept yet.
    fn insert(&mut self, at: u64, fresh: &[u8]) {
        let before = self.early.range_mut(..at).next_back();
        if let Some((start, piece)) = before
            && start + piece.len() as u64 == at
        {
            piece.extend_from_slice(fresh);
        } else if self.early.len() < MAX_PIECES {
            self.early.insert(at, fresh.to_vec());
        } else {
            return;
        }
        self.early_bytes += fresh.len();
    }

    /// The next bytes, in order. Whole frames are read where they lie; only what is cut off is copied.
    fn feed(&mut self, bytes: &[u8], mux: &mut Mux) -> Result<(), Violation> {
        self.next += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.partial.is_empty() {
                let Some(total) = whole(rest)? else {
                    self.partial.extend_from_slice(rest);
                    return Ok(());
                };
                let (frame, after) = rest.split_at(total);
                on_frame(frame, mux)?;
                rest = after;
            } else {
                rest = self.complete(rest, mux)?;
            }
        }
        Ok(())
    }

    /// Adds to the frame that is not whole; returns what is left of `bytes`.
    fn complete<'a>(&mut self, bytes: &'a [u8], mux: &mut Mux) -> Result<&'a [u8], Violation> {
        let wanted = match total(&self.partial)? {
            None => frame::HEADER_LEN,
            Some(total) => total,
        };
        let missing = wanted - self.partial.len();
        let (now, later) = bytes.split_at(missing.min(bytes.len()));
        self.partial.extend_from_slice(now);
        if whole(&self.partial)?.is_some() {
            on_frame(&self.partial, mux)?;
            self.partial = Vec::new();
        }
        Ok(later)
    }

    pub(super) fn allocated(&self) -> usize {
        self.partial.capacity() + self.early_bytes
    }
}

/// A part of some bytes.
fn part(bytes: &[u8], from: u64, to: u64) -> &[u8] {
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default()
}

/// The length of the frame that begins here, once its header is whole.
fn total(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let [a, b, c, _, ..] = *bytes else { return Ok(None) };
    let total = frame::HEADER_LEN + u32::from_be_bytes([0, a, b, c]) as usize;
    if total > MAX_CONTENT { Err(Violation::Malformed) } else { Ok(Some(total)) }
}

/// The same, once it is whole itself.
fn whole(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    Ok(total(bytes)?.filter(|total| bytes.len() >= *total))
}

fn on_frame(bytes: &[u8], mux: &mut Mux) -> Result<(), Violation> {
    match frames(bytes).next() {
        Some(Ok(frame)) => mux.on_frame(&frame),
        Some(Err(_)) | None => Err(Violation::Malformed),
    }
}
