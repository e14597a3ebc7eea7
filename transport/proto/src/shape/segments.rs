//! The client's bursts, cut into segments as a browser's requests are.
//!
//! A page's requests go out one by one, each a record in a segment of its own, some long and most short. What a tunnel carries
//! upward is a few long pieces; left as they are, three of them in a row are a rule that censors use
//! (`tests/detectors`, 7). So in a burst that is no bulk no more than two long segments follow each other, and a stream's first
//! bursts, in which a hello may be, take more segments than a hello has.

use rand_chacha::ChaCha8Rng;

use super::profile::Bursts;
use super::{OVERHEAD, RECORD_HEADER};
use crate::sizes::below;

/// Client segments from this length on are long: the rule's figure.
const LONG: usize = 411;
/// What a record gets around it at most before it is a segment: 48 bytes of a websocket's frame, one of HTTP/2, and TLS, where it
/// goes that way.
const AROUND: usize = RECORD_HEADER + 48;
/// Long segments that may follow each other: the rule's three less one.
const MOST_LONG: u8 = 2;
/// The longest record that makes a short segment, some bytes below the rule's figure.
#[expect(clippy::cast_possible_truncation, reason = "some hundreds")]
pub(super) const MOST_SHORT: u32 = (LONG - AROUND - 8) as u32;
/// Bytes below which a burst holds no hello: the shortest have some 180.
const LEAST_HELLO: usize = 160;
/// Bytes from which a burst holds more than a hello that the models know.
const MOST_HELLO: usize = 4_096;
/// The least that is worth a record.
const LEAST_PIECE: usize = 40;

/// Where a client's carrier stands.
#[derive(Debug)]
pub(super) struct Segments {
    data: &'static Bursts,
    /// Long segments that were sent last.
    run: u8,
    /// Bytes of the present burst.
    burst: usize,
    /// First bursts that are still to come.
    hellos: u16,
    /// Pieces that are left of such a burst.
    pieces: usize,
    /// The longest that the next record may be.
    most: usize,
    /// The last record stands in a segment of its own.
    alone: bool,
}

impl Segments {
    pub(super) fn new(data: &'static Bursts, rng: &mut ChaCha8Rng) -> Self {
        let most = usize::from(data.longest);
        Self { data, run: 0, burst: 0, hellos: data.hellos.draw_count(rng), pieces: 0, most, alone: true }
    }

    /// A stream was opened: what comes may be a hello.
    pub(super) fn opened(&mut self, rng: &mut ChaCha8Rng) {
        self.hellos = self.hellos.max(self.data.hellos.draw_count(rng));
    }

    /// The peer has spoken: the next record begins a burst.
    pub(super) fn begin_burst(&mut self, queued: usize, rng: &mut ChaCha8Rng) {
        self.burst = 0;
        self.pieces = 0;
        if self.hellos > 0 && (LEAST_HELLO..MOST_HELLO).contains(&queued) {
            self.hellos -= 1;
            self.pieces = self.data.hello_segments.draw(rng);
        }
    }

    /// How many bytes of `queued` go into the next record. `None`: as many as fit.
    pub(super) fn content(&mut self, queued: usize, rng: &mut ChaCha8Rng) -> Option<usize> {
        self.alone = queued.max(self.burst) < self.data.bulk as usize;
        if !self.alone {
            return None;
        }
        let longest = usize::from(self.data.longest);
        let short = self.run >= MOST_LONG || self.run > 0 && below(rng, 2) == 0;
        self.most = if short { MOST_SHORT as usize } else { longest };
        let drawn = if short { self.data.short.draw(rng).min(self.most) } else { longest };
        let mut content = drawn.saturating_sub(OVERHEAD);
        if self.pieces > 1 {
            let even = queued / self.pieces;
            self.pieces -= 1;
            content = content.min(even / 2 + below(rng, even + 1)).max(LEAST_PIECE);
        }
        Some(content)
    }

    /// The longest record that may be sent now.
    pub(super) fn most(&self, longest: usize) -> usize {
        if self.alone { self.most.min(longest) } else { longest }
    }

    /// A length for a record that may have any, instead of `length` where that would make one long segment too many.
    pub(super) fn fit(&self, length: usize, rng: &mut ChaCha8Rng) -> usize {
        let long = length + AROUND >= LONG;
        if long && self.run >= MOST_LONG { self.data.short.draw(rng) } else { length }
    }

    /// A record of this length was sent.
    pub(super) fn sent(&mut self, length: usize) {
        self.burst += length;
        self.run = if length + AROUND >= LONG { self.run.saturating_add(1) } else { 0 };
    }

    /// First bursts that are still to come, and pieces of the present one.
    #[cfg(test)]
    pub(super) fn left(&self) -> (u16, usize) {
        (self.hellos, self.pieces)
    }

    /// Whether the last record stands in a segment of its own.
    pub(super) fn alone(&self) -> bool {
        self.alone
    }
}
