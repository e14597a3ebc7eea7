//! The bridge's HTTP/2 to the decoy after HANDOVER: it knows neither side's HPACK tables, so its own header blocks are
//! literals only and the decoy's are not read.

use qnet_wire::error::{Kind, Retry};
use qnet_wire::name::ServerName;

use super::encode::integer;
use super::frame::{self, Cutter, Frame, flag, kind, setting};
use crate::chrome::CHROME_156;

/// The first stream: above any that a client's load opens (docs/protocol.md, section 10).
const FIRST_STREAM: u32 = 1001;
/// The last stream: ids are 31 bits (RFC 9113, section 5.1.1).
const LAST_STREAM: u32 = 0x7fff_ffff;
/// Requests without an answer at most. A decoy that answers none is not asked on.
const MAX_OUTSTANDING: usize = 100;
/// Length of a PING's answer, header included.
const MARK: usize = frame::HEADER + 8;
/// Bytes of answers to PING and SETTINGS that are kept while nothing is said: a server that awaits an answer asks once or twice.
const MAX_UNSAID: usize = 512;
/// Credit is returned in steps of this many bytes: often enough for the smallest window a client may have left.
const CREDIT_STEP: u32 = 16_384;

// Names in the static table (RFC 7541, appendix A), which every decoder has.
const AUTHORITY: usize = 1;
const METHOD: usize = 2;
const PATH: usize = 4;
const SCHEME: usize = 7;
const ACCEPT: usize = 19;
const USER_AGENT: usize = 58;

/// Why the decoy's connection cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeeperError {
    /// The decoy broke HTTP/2 (RFC 9113).
    #[error("the decoy broke HTTP/2: {0}")]
    Protocol(&'static str),
}

impl KeeperError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Protocol(_) => Kind::PeerMisbehaved,
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Protocol(_) => Retry::Later,
        }
    }
}

/// The bridge's side of a decoy's connection. HEAD requests keep it from idling out; a GET without room for its body makes it a
/// download that stands still.
#[derive(Debug)]
pub struct Keeper {
    authority: String,
    path: String,
    requests: u32,
    answered: u32,
    next_stream: u32,
    outstanding: Vec<u32>,
    cutter: Cutter,
    /// The PING whose answer shows where frames begin, and the end of what was passed over.
    search: Option<([u8; MARK], Vec<u8>)>,
    taken: u32,
    /// The request whose body the decoy may not send yet.
    withheld: Option<u32>,
    /// What a client would have answered meanwhile, had its words come through.
    unsaid: Vec<u8>,
    /// The decoy ended that request all the same.
    gave_up: bool,
    /// The decoy's answer has no body, so that nothing of it can be withheld.
    bodiless: bool,
    going_away: bool,
}

impl Keeper {
    /// Goes on after a load of `requests_made` requests. The decoy's bytes given to [`on_data`](Self::on_data) must
    /// begin at a frame, unless [`find_frames`](Self::find_frames) is called first.
    pub fn new(requests_made: u32, authority: &ServerName, path: &str) -> Self {
        Self {
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
            requests: requests_made,
            answered: 0,
            next_stream: FIRST_STREAM,
            outstanding: Vec::new(),
            cutter: Cutter::default(),
            search: None,
            taken: 0,
            withheld: None,
            unsaid: Vec::new(),
            gave_up: false,
            bodiless: false,
            going_away: false,
        }
    }

    /// The decoy's bytes may begin inside a frame: the tail of the knock's answer. Appends a PING with these 8 random
    /// bytes; everything up to its answer is passed over. To be called before anything else.
    pub fn find_frames(&mut self, random: [u8; 8], out: &mut Vec<u8>) {
        frame::header(kind::PING, 0, 0, random.len(), out);
        out.extend_from_slice(&random);
        let mut answer = Vec::with_capacity(MARK);
        frame::header(kind::PING, flag::ACK, 0, random.len(), &mut answer);
        answer.extend_from_slice(&random);
        self.search = <[u8; MARK]>::try_from(answer).ok().map(|mark| (mark, Vec::new()));
    }

    /// Appends one HEAD request, unless the decoy is going away or answers nothing.
    pub fn request(&mut self, out: &mut Vec<u8>) {
        self.ask("HEAD", out);
    }

    /// Makes the decoy's connection one whose download stands still: takes all windows away (RFC 9113, section 6.9.2) and asks for
    /// the page. What the decoy does with such a client and when, it does from here on; [`Self::release`] ends it. Until then PING
    /// and SETTINGS are not answered: to the decoy its client's words do not come through.
    pub fn withhold(&mut self, out: &mut Vec<u8>) {
        frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)], out);
        self.withheld = self.ask("GET", out);
        self.gave_up = false;
    }

    /// The download goes on: gives the windows back, and the answers that were not given. What comes of the page is passed over.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.unsaid);
        let window = CHROME_156.settings.iter().find(|(id, _)| *id == setting::INITIAL_WINDOW_SIZE);
        frame::settings(&[window.copied().unwrap_or((setting::INITIAL_WINDOW_SIZE, 65_535))], out);
        self.withheld = None;
    }

    /// Whether a download stands still, or did until the decoy ended it.
    pub fn withholds(&self) -> bool {
        self.withheld.is_some()
    }

    /// Whether the decoy has ended the download that stood still, but not its connection. Told once.
    pub fn take_gave_up(&mut self) -> bool {
        std::mem::take(&mut self.gave_up)
    }

    /// Whether the page turned out to have no body.
    pub fn is_bodiless(&self) -> bool {
        self.bodiless
    }

    /// The stream of the request, unless none was made.
    fn ask(&mut self, method: &str, out: &mut Vec<u8>) -> Option<u32> {
        if self.going_away || self.outstanding.len() >= MAX_OUTSTANDING || self.next_stream > LAST_STREAM {
            return None;
        }
        let mut block = Vec::new();
        for (name, value) in [
            (METHOD, method),
            (SCHEME, "https"),
            (AUTHORITY, self.authority.as_str()),
            (PATH, self.path.as_str()),
            (USER_AGENT, CHROME_156.user_agent),
            (ACCEPT, "*/*"),
        ] {
            literal(name, value.as_bytes(), &mut block);
        }
        let stream = self.next_stream;
        frame::header(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, stream, block.len(), out);
        out.extend_from_slice(&block);
        self.outstanding.push(stream);
        self.next_stream += 2;
        // The number it began with is the client's word.
        self.requests = self.requests.saturating_add(1);
        Some(stream)
    }

    /// Takes what the decoy sent and appends what it is owed: answers to SETTINGS and PING, and credit.
    ///
    /// # Errors
    /// [`KeeperError`]: the connection cannot be understood any more.
    pub fn on_data(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), KeeperError> {
        let mut cutter = std::mem::take(&mut self.cutter);
        match self.search.take() {
            None => cutter.push(bytes),
            Some((mark, mut passed)) => {
                passed.extend_from_slice(bytes);
                match passed.windows(MARK).position(|window| *window == mark) {
                    Some(place) => cutter.push(passed.get(place + MARK..).unwrap_or_default()),
                    None => {
                        passed.drain(..passed.len().saturating_sub(MARK - 1));
                        self.search = Some((mark, passed));
                    }
                }
            }
        }
        let outcome = loop {
            match cutter.next() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.frame(&frame, out) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(_) => break Err(KeeperError::Protocol("a frame longer than allowed")),
            }
        };
        self.cutter = cutter;
        outcome
    }

    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), KeeperError> {
        match frame.kind {
            kind::DATA => {
                self.taken += u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                if self.taken >= CREDIT_STEP {
                    frame::window_update(0, std::mem::take(&mut self.taken), out);
                }
                if frame.has(flag::END_STREAM) {
                    self.answer(frame.stream);
                } else if !frame.payload.is_empty() {
                    // The knock answer's tail: its stream's credit is not known, so it is given back at once.
                    let length = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                    frame::window_update(frame.stream, length, out);
                }
            }
            kind::HEADERS if frame.has(flag::END_STREAM) => {
                self.answer(frame.stream);
                if self.withheld == Some(frame.stream) {
                    (self.bodiless, self.gave_up) = (true, false);
                }
            }
            kind::RST_STREAM => self.end(frame.stream),
            kind::SETTINGS if !frame.has(flag::ACK) => self.owe(kind::SETTINGS, &[], out),
            kind::PING if frame.payload.len() != 8 => return Err(KeeperError::Protocol("a bad PING")),
            // A server that says goodbye with a PING (hyper) closes when it is answered: that is the client's to bring about, by
            // closing, a round trip later.
            kind::PING if !frame.has(flag::ACK) && !self.going_away => {
                self.owe(kind::PING, frame.payload, out);
            }
            kind::PUSH_PROMISE => return Err(KeeperError::Protocol("it pushed, which SETTINGS forbid")),
            kind::GOAWAY => self.going_away = true,
            _ => {}
        }
        Ok(())
    }

    fn owe(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
        let out = if self.withheld.is_some() { &mut self.unsaid } else { out };
        if self.withheld.is_none() || out.len() < MAX_UNSAID {
            frame::header(kind, flag::ACK, 0, payload.len(), out);
            out.extend_from_slice(payload);
        }
    }

    fn answer(&mut self, stream: u32) {
        let before = self.outstanding.len();
        self.end(stream);
        self.answered += u32::from(self.outstanding.len() < before);
    }

    fn end(&mut self, stream: u32) {
        self.gave_up |= self.withheld == Some(stream);
        self.outstanding.retain(|id| *id != stream);
    }

    /// Requests without a whole answer.
    #[allow(clippy::cast_possible_truncation, reason = "at most MAX_OUTSTANDING")]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.len() as u32
    }

    /// Requests of its own that were answered, not reset.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Requests made on this connection, the load's included.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Whether the decoy announced its end (GOAWAY).
    pub fn going_away(&self) -> bool {
        self.going_away
    }
}

/// A literal without indexing (RFC 7541, section 6.2.2), its name from the static table, its value as it is.
fn literal(name: usize, value: &[u8], out: &mut Vec<u8>) {
    integer(0x00, 4, name, out);
    integer(0x00, 7, value.len(), out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::decode::Decoder;
    use proptest::prelude::*;

    fn keeper() -> Keeper {
        Keeper::new(7, &"www.example.com".parse().unwrap(), "/page")
    }

    fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::header(kind, flags, stream, payload.len(), &mut out);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn requests_are_literals_any_decoder_reads() {
        let (mut keeper, mut out) = (keeper(), Vec::new());
        keeper.request(&mut out);
        keeper.request(&mut out);
        let mut cutter = Cutter::default();
        cutter.push(&out);
        for stream in [1001, 1003] {
            let frame = cutter.next().unwrap().unwrap();
            assert_eq!((frame.kind, frame.flags, frame.stream), (kind::HEADERS, 0x5, stream));
            // No index and nothing that is added to a table: every field begins with 0000.
            let mut fields = Vec::new();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Decoder::new().decode(frame.payload, |n, v| fields.push((text(n), text(v)))).unwrap();
            assert!(fields.contains(&(":method".into(), "HEAD".into())));
            assert!(fields.contains(&(":path".into(), "/page".into())));
            assert_eq!(frame.payload[0], 0x02);
        }
        assert_eq!((keeper.outstanding(), keeper.requests()), (2, 9));
        let mut none = Vec::new();
        keeper.on_data(&framed(kind::HEADERS, 0x5, 1001, &[0x88]), &mut none).unwrap();
        keeper.on_data(&framed(kind::RST_STREAM, 0, 1003, &[0; 4]), &mut none).unwrap();
        assert_eq!((keeper.outstanding(), none.len()), (0, 0));
    }

    #[test]
    fn what_is_owed_is_answered() {
        let (mut keeper, mut out) = (keeper(), Vec::new());
        keeper.on_data(&framed(kind::SETTINGS, 0, 0, &[]), &mut out).unwrap();
        keeper.on_data(&framed(kind::PING, 0, 0, b"12345678"), &mut out).unwrap();
        keeper.on_data(&framed(kind::PING, flag::ACK, 0, b"12345678"), &mut out).unwrap();
        let owed = [framed(kind::SETTINGS, 1, 0, &[]), framed(kind::PING, 1, 0, b"12345678")].concat();
        assert_eq!(out, owed);
        out.clear();
        for _ in 0..4 {
            keeper.on_data(&framed(kind::DATA, 0, 13, &[0; 8192]), &mut out).unwrap();
        }
        let credit = out.chunks(13).filter(|update| update[8] == 0).map(|update| update[11]).sum::<u8>();
        assert_eq!((out.len(), credit), (6 * 13, 2 * 0x40));
        keeper.on_data(&framed(kind::GOAWAY, 0, 0, &[0; 8]), &mut out).unwrap();
        assert!(keeper.going_away());
        out.clear();
        keeper.request(&mut out);
        assert!(out.is_empty(), "no request to a decoy that goes away");
        assert!(keeper.on_data(&framed(kind::PUSH_PROMISE, 4, 1, &[0; 4]), &mut out).is_err());
    }

    #[test]
    fn a_decoy_that_answers_nothing_is_not_asked_on() {
        let (mut keeper, mut out) = (keeper(), Vec::new());
        for _ in 0..1000 {
            keeper.request(&mut out);
        }
        assert_eq!(keeper.outstanding() as usize, MAX_OUTSTANDING);
    }

    #[test]
    fn answers_are_told_from_resets() {
        let mut keeper = Keeper::new(7, &"www.example.com".parse().unwrap(), "/");
        let mut out = Vec::new();
        (0..3).for_each(|_| keeper.request(&mut out));
        assert_eq!((keeper.requests(), keeper.outstanding(), keeper.answered()), (10, 3, 0));
        let mut came = Vec::new();
        frame::header(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, FIRST_STREAM, 1, &mut came);
        came.push(0x88);
        frame::header(kind::RST_STREAM, 0, FIRST_STREAM + 2, 4, &mut came);
        came.extend_from_slice(&7u32.to_be_bytes());
        // An answer to none of its requests: the load's last one may still be on its way.
        frame::header(kind::DATA, flag::END_STREAM, 13, 0, &mut came);
        keeper.on_data(&came, &mut Vec::new()).unwrap();
        assert_eq!((keeper.outstanding(), keeper.answered()), (1, 1));
    }

    /// No more of the decoy's is answered than a client whose words do not come through would answer.
    #[test]
    fn a_page_is_withheld_until_it_is_released() {
        let (mut keeper, mut out) = (keeper(), Vec::new());
        keeper.withhold(&mut out);
        let windows = framed(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        assert_eq!(out[..windows.len()], windows);
        assert_eq!(out[windows.len() + 9..][..5], *b"\x02\x03GET");
        assert!(keeper.withholds() && !keeper.take_gave_up());
        out.clear();
        let ping = framed(kind::PING, 0, 0, b"12345678");
        keeper.on_data(&[framed(kind::HEADERS, 4, 1001, &[0x88]), ping].concat(), &mut out).unwrap();
        assert!(out.is_empty() && !keeper.is_bodiless());
        for _ in 0..1_000 {
            keeper.on_data(&framed(kind::SETTINGS, 0, 0, &[]), &mut out).unwrap();
        }
        assert!(out.is_empty() && keeper.unsaid.len() < MAX_UNSAID + MARK);
        keeper.release(&mut out);
        assert_eq!(out[..MARK], framed(kind::PING, 1, 0, b"12345678"));
        assert_eq!(out[out.len() - 4..], 6_291_456u32.to_be_bytes());
        out.clear();
        keeper.on_data(&framed(kind::DATA, 1, 1001, &[0; 9]), &mut out).unwrap();
        assert_eq!((keeper.outstanding(), keeper.withholds(), keeper.take_gave_up()), (0, false, false));
    }

    #[test]
    fn a_decoy_that_ends_what_was_withheld_is_told_from_one_that_has_no_page() {
        for (frame, gave_up, bodiless) in [
            (framed(kind::RST_STREAM, 0, 1001, &[0; 4]), true, false),
            (framed(kind::DATA, 1, 1001, &[]), true, false),
            (framed(kind::HEADERS, 5, 1001, &[0x88]), false, true),
        ] {
            let (mut keeper, mut out) = (keeper(), Vec::new());
            keeper.withhold(&mut out);
            keeper.on_data(&frame, &mut out).unwrap();
            assert_eq!((keeper.take_gave_up(), keeper.is_bodiless()), (gave_up, bodiless));
            assert!(keeper.withholds() && !keeper.take_gave_up() && keeper.outstanding() == 0);
        }
    }

    proptest! {
        #[test]
        fn frames_are_found_from_anywhere(
            tail in proptest::collection::vec(any::<u8>(), 0..100),
            cut in 1usize..40,
        ) {
            let (mut keeper, mut out) = (keeper(), Vec::new());
            keeper.find_frames(*b"a nonce!", &mut out);
            prop_assert_eq!(&out, &framed(kind::PING, 0, 0, b"a nonce!"));
            keeper.request(&mut out);
            out.clear();
            let bytes = [
                tail,
                framed(kind::PING, flag::ACK, 0, b"a nonce!"),
                framed(kind::HEADERS, 0x5, 1001, &[0x88]),
                framed(kind::SETTINGS, 0, 0, &[]),
            ]
            .concat();
            for piece in bytes.chunks(cut) {
                keeper.on_data(piece, &mut out).unwrap();
            }
            prop_assert_eq!(keeper.outstanding(), 0);
            prop_assert_eq!(out, framed(kind::SETTINGS, flag::ACK, 0, &[]));
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), withheld: bool) {
            let mut keeper = keeper();
            if withheld {
                keeper.withhold(&mut Vec::new());
            }
            let _ = keeper.on_data(&bytes, &mut Vec::new());
        }
    }
}
