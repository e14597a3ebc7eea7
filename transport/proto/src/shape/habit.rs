//! How a server cuts a long answer into TLS records, as the lengths of its own records show.
//!
//! Servers differ in it, and keep to it for as long as an answer is (docs/shaping.md, "Bulk"): most fill records to the last byte,
//! HAProxy stops some bytes short, Go and hyper write each DATA frame's header as a record of its own, and nginx's headers of four
//! frames flow over into one after two full records. So two things are looked for: the length that long records have, and the
//! records of nothing but frame headers that stand between them.

use crate::record::MAX_LENGTH;

/// The inner type byte and the AEAD tag.
const OVERHEAD: u16 = 17;
/// Bytes of an HTTP/2 frame's header (RFC 9113, section 4.1).
const FRAME_HEADER: u16 = 9;
/// Headers of more frames than this are no rest: what is as long is a piece of an answer.
const MOST_HEADERS: u16 = 5;
/// A shorter record that follows says nothing of the answer before it: it may be control.
const LEAST_PIECE: u16 = 64;

/// Records of frame headers between full ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// So many full records stand before each.
    pub every: u8,
    /// Its length.
    pub length: u16,
}

/// What long answers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bulk {
    /// The length of a full record.
    pub longest: u16,
    beat: Option<(u8, u16)>,
}

impl Bulk {
    /// What stands between full records, if anything does.
    #[must_use]
    pub fn beat(&self) -> Option<Beat> {
        self.beat.map(|(every, length)| Beat { every, length })
    }
}

/// What was seen of a server's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habit {
    /// The longest record.
    longest: u16,
    /// How many stand at the end of what was seen, and how many stood side by side at most: two are a
    /// buffer's length, and not an answer's.
    run: u8,
    most: u8,
    /// The record of headers after them, if that is the last.
    headers: Option<u16>,
    /// What stood between full records.
    beat: Option<(u8, u16)>,
    /// It did so twice: the fields of one answer may be as long by chance.
    confirmed: bool,
}

impl Habit {
    /// A record of this length: the value of its length field.
    pub fn note(&mut self, length: usize) {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        if length > self.longest {
            *self = Self { longest: length, run: 1, most: 1, ..Self::default() };
        } else if self.headers.is_none() && self.run > 0 && is_headers(length) {
            self.headers = Some(length);
        } else {
            if let Some(headers) = self.headers.take() {
                if length >= LEAST_PIECE {
                    let beat = Some((self.run, headers));
                    self.confirmed = self.beat == beat;
                    self.beat = beat;
                }
                self.run = 0;
            }
            self.run = if length == self.longest { self.run.saturating_add(1) } else { 0 };
            self.most = self.most.max(self.run);
        }
    }

    /// What long answers are made of, where long answers were seen.
    #[must_use]
    pub fn bulk(&self) -> Option<Bulk> {
        // Where more full ones went without, what stood between others was something else.
        let beat = self.beat.filter(|(every, _)| self.confirmed && *every >= self.most);
        let known = self.most > 1 || beat.is_some() || usize::from(self.longest) >= MAX_LENGTH;
        known.then_some(Bulk { longest: self.longest, beat })
    }

    /// The longest record seen, nought if there was none.
    #[must_use]
    pub fn longest(&self) -> usize {
        usize::from(self.longest)
    }

    /// What two views of one server show together: what each saw once was seen twice.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.longest != other.longest {
            return if (other.bulk(), other.longest) > (self.bulk(), self.longest) { other } else { self };
        }
        let surer = if self.beat.is_none() || other.confirmed { other } else { self };
        Self {
            most: self.most.max(other.most),
            beat: surer.beat,
            confirmed: surer.confirmed || surer.beat.is_some() && self.beat == other.beat,
            ..self
        }
    }
}

/// Whether a record of this length may hold headers of frames and nothing else.
fn is_headers(length: u16) -> bool {
    length.checked_sub(OVERHEAD).is_some_and(|content| {
        content.is_multiple_of(FRAME_HEADER) && (1..=MOST_HEADERS).contains(&(content / FRAME_HEADER))
    })
}

/// Where the bridge's bulk stands in its server's beat.
#[derive(Debug)]
pub(super) struct Follower {
    beat: Beat,
    run: u8,
}

impl Follower {
    pub(super) fn new(beat: Beat) -> Self {
        Self { beat, run: 0 }
    }

    /// A record of data went out.
    pub(super) fn sent(&mut self, full: bool) {
        self.run = if full { self.run.saturating_add(1) } else { 0 };
    }

    /// The length of the record that goes before further data.
    pub(super) fn due(&self) -> Option<usize> {
        (self.run >= self.beat.every).then_some(usize::from(self.beat.length))
    }

    /// It went, or the answer is over.
    pub(super) fn begin(&mut self) {
        self.run = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(lengths: &[usize]) -> Habit {
        let mut habit = Habit::default();
        lengths.iter().for_each(|length| habit.note(*length));
        habit
    }

    fn bulk(lengths: &[usize]) -> Option<(u16, Option<(u8, u16)>)> {
        seen(lengths).bulk().map(|bulk| (bulk.longest, bulk.beat))
    }

    /// What servers sent for a page of three files, one after the other (the program `bulk` of `tests/detectors`, November 2026).
    #[test]
    fn habits_of_servers_are_known_by_their_pages() {
        let nginx = [
            36, 795, 281, 69, 282, 282, 180, 11_026, 16_401, 16_401, 168, 16_401, 16_401, 53, 11_532, 16_401,
            11_595,
        ];
        assert_eq!(bulk(&nginx), Some((16_401, None)), "it may be chance");
        assert_eq!(seen(&nginx).or(seen(&nginx)).bulk().unwrap().beat, Some((2, 53)));
        assert_eq!(bulk(&nginx.repeat(2)), Some((16_401, Some((2, 53)))));
        let apache = [
            36, 795, 281, 69, 298, 298, 45, 26, 11_123, 16_401, 16_401, 16_401, 16_401, 11_631, 16_401,
            11_527,
        ];
        assert_eq!(bulk(&apache), Some((16_401, None)));
        // Its answer's fields may be as long as headers of frames.
        assert_eq!(bulk(&[16_401, 35, 16_401, 4_000]), Some((16_401, None)));
        let lighttpd = [
            32, 795, 281, 69, 266, 250, 78, 11_129, 16_401, 16_401, 80, 16_401, 16_401, 11_568, 16_401,
            11_527,
        ];
        assert_eq!(bulk(&lighttpd), Some((16_401, None)));
        let caddy = [
            32, 795, 281, 53, 147, 50, 30, 26, 125, 5_947, 5_087, 26, 81, 10_691, 5_736, 13_063, 3_364,
            15_435, 992, 16_401, 26, 11_523, 26, 73, 16_401, 26, 11_454, 26,
        ];
        assert_eq!(bulk(&caddy), Some((16_401, Some((1, 26)))));
        let haproxy =
            [36, 795, 281, 69, 282, 282, 47, 11_082, 15_223, 16_346, 16_346, 16_346, 12_967, 15_223, 12_706];
        assert_eq!(bulk(&haproxy), Some((16_346, None)));
        let hyper =
            [1_130, 179, 50, 39, 11_072, 16_401, 77, 16_401, 26, 16_401, 26, 11_523, 16_401, 69, 11_454];
        assert_eq!(bulk(&hyper), Some((16_401, Some((1, 26)))));
    }

    #[test]
    fn short_answers_show_nothing() {
        assert_eq!(bulk(&[]), None);
        assert_eq!(bulk(&[36, 795, 281, 69, 282, 282, 180, 11_026, 4_000, 26, 300]), None);
        // A small buffer is one.
        assert_eq!(bulk(&[282, 4_113, 4_113, 4_113, 900]), Some((4_113, None)));
    }

    #[test]
    fn what_is_no_rest_of_headers_is_no_beat() {
        // WINDOW_UPDATE, PING, the end of the first frames, an acknowledgement that ends what was said.
        for other in [30, 34, 57, 80] {
            assert_eq!(bulk(&[16_401, other].repeat(4)), Some((16_401, None)), "{other}");
        }
        assert_eq!(bulk(&[16_401, 26, 30].repeat(4)), Some((16_401, None)));
    }

    #[test]
    fn what_does_not_hold_throughout_is_no_beat() {
        let (hyper, nginx) = ([16_401, 26].repeat(3), [16_401, 16_401, 53].repeat(3));
        assert_eq!(bulk(&hyper), Some((16_401, Some((1, 26)))));
        assert_eq!(bulk(&[&hyper[..], &[16_401, 16_401]].concat()), Some((16_401, None)));
        assert_eq!(bulk(&[&[16_401, 16_401], &hyper[..]].concat()), Some((16_401, None)));
        let plain = seen(&[16_401, 16_401, 16_401, 900]);
        let (hyper, nginx) = (seen(&hyper), seen(&nginx));
        assert_eq!(hyper.or(plain).bulk(), plain.bulk());
        assert_eq!(plain.or(nginx).bulk(), plain.bulk());
        assert_eq!(Habit::default().or(nginx), nginx);
        // A short answer's length that came twice is no buffer where a longer one is known.
        let short = seen(&[11_000, 11_000]);
        assert_eq!((short.or(nginx), nginx.or(short), short.or(Habit::default())), (nginx, nginx, short));
    }

    proptest! {
        #[test]
        fn any_lengths_make_a_habit_that_keeps_the_bounds(
            lengths in prop::collection::vec(prop_oneof![0..70_000_usize, 20..70_usize, Just(16_401)], 0..400),
        ) {
            let habit = seen(&lengths);
            let longest = lengths.iter().copied().max().unwrap_or(0).min(65_535);
            prop_assert_eq!(habit.longest(), longest);
            if let Some(bulk) = habit.bulk() {
                prop_assert_eq!(usize::from(bulk.longest), longest);
                prop_assert!(bulk.beat().is_none_or(|beat| beat.every > 0 && (26..=62).contains(&beat.length)));
            }
        }
    }
}
