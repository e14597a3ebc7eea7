//! An honest web server, as far as a carrier can see one: TLS records, HTTP/2 frames, an idle limit, alerts.

use std::time::{Duration, Instant};

use qnet_proto::tls::{Opener, Sealer, Suite};

use crate::hellos::{self, DOWN_RECORDS, UP_RECORDS};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// The body of the page where a keeper asks for it.
const PAGE: &[u8] = b"<!doctype html><title>Bread</title>";

/// What a server does when its patience with a download that stands still is at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Impatience {
    /// Ends the connection, as Apache.
    Connection,
    /// Ends the download, as nginx; then the connection is idle.
    Download,
}

/// What a decoy is like.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) suite: Suite,
    pub(crate) random: [u8; 32],
    /// The page's subresources, in bytes each.
    pub(crate) images: Vec<usize>,
    /// The answer to the load's last request, in bytes.
    pub(crate) last: usize,
    /// How long it keeps a silent connection.
    pub(crate) idle: Option<Duration>,
    /// How long it bears a download that stands still, and what it does then.
    pub(crate) patience: Option<(Duration, Impatience)>,
    /// Application data is cut into records of this many bytes, frames or not; 0: one frame, one record.
    pub(crate) record: usize,
    /// Asks for a key update, and updates its own, with the answer to this request.
    pub(crate) key_update_at: Option<u32>,
    /// Sends a PING with the answer to this request.
    pub(crate) ping_at: Option<u32>,
    /// The same, behind the first record of the answer.
    pub(crate) key_update_after: Option<u32>,
    pub(crate) ping_after: Option<u32>,
    /// Never answers this request.
    pub(crate) mute_at: Option<u32>,
    /// Sends this many tickets.
    pub(crate) tickets: usize,
    /// The last frame of each body is an empty one.
    pub(crate) empty_end: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            suite: Suite::Aes128GcmSha256,
            random: [0x5a; 32],
            images: vec![900, 3_000, 20_000],
            last: 1_500,
            idle: None,
            patience: None,
            record: 0,
            key_update_at: None,
            ping_at: None,
            key_update_after: None,
            ping_after: None,
            mute_at: None,
            tickets: 2,
            empty_end: false,
        }
    }
}

/// What became of the connection, as the decoy sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Idle,
    BadRecord,
    Alerted([u8; 2]),
    PeerFin,
    PeerReset,
}

pub(crate) struct Decoy {
    manner: Manner,
    opener: Opener,
    sealer: Sealer,
    /// Every byte that came.
    pub(crate) received: Vec<u8>,
    read: usize,
    hello_done: bool,
    skipped: u64,
    h2: Vec<u8>,
    greeted: bool,
    /// Application data not yet in a record.
    unsent: Vec<u8>,
    out: Vec<u8>,
    pub(crate) requests: u32,
    /// PINGs of ours that were answered.
    pub(crate) pongs: u32,
    /// Credit that was returned on the connection.
    pub(crate) credit: u64,
    last_active: Option<Instant>,
    /// The window of a new stream is nothing.
    windowless: bool,
    /// A request whose body may not go yet, and since when.
    standing: Option<(u32, Instant)>,
    /// Downloads that stood still so far.
    pub(crate) stood: u32,
    pub(crate) ending: Option<Ending>,
    /// The lengths of the records sent when it ended.
    fin: bool,
    pub(crate) secrets_updated: u32,
}

impl Decoy {
    pub(crate) fn new(manner: Manner) -> Self {
        let suite = manner.suite;
        Self {
            opener: Opener::new(suite, hellos::secret(suite, 0xc1), UP_RECORDS, UP_RECORDS),
            sealer: Sealer::new(suite, hellos::secret(suite, 0xd1), DOWN_RECORDS, DOWN_RECORDS),
            manner,
            received: Vec::new(),
            read: 0,
            hello_done: false,
            skipped: 0,
            h2: Vec::new(),
            greeted: false,
            unsent: Vec::new(),
            out: Vec::new(),
            requests: 0,
            pongs: 0,
            credit: 0,
            last_active: None,
            windowless: false,
            standing: None,
            stood: 0,
            ending: None,
            fin: false,
            secrets_updated: 0,
        }
    }

    pub(crate) fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether its FIN is to be sent now.
    pub(crate) fn take_fin(&mut self) -> bool {
        std::mem::take(&mut self.fin)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.standing.filter(|_| self.ending.is_none()) {
            Some((_, since)) => Some(since + self.manner.patience?.0),
            None if self.ending.is_some() => None,
            None => Some(self.last_active? + self.manner.idle?),
        }
    }

    pub(crate) fn on_timer(&mut self, now: Instant) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        match (self.standing.take(), self.manner.patience) {
            (Some((stream, _)), Some((_, Impatience::Download))) => {
                self.last_active = Some(now);
                let mut reset = Vec::new();
                frame(RST_STREAM, 0, stream, &[0; 4], &mut reset);
                self.sealer.seal(23, &reset, &mut self.out);
            }
            _ => self.go_away(),
        }
    }

    /// GOAWAY, close_notify, FIN: as nginx at its idle limit.
    pub(crate) fn go_away(&mut self) {
        let mut goaway = Vec::new();
        frame(GOAWAY, 0, 0, &[0; 8], &mut goaway);
        self.sealer.seal(23, &goaway, &mut self.out);
        self.sealer.seal(21, &[1, 0], &mut self.out);
        self.end(Ending::Idle);
    }

    /// GOAWAY and PING in one record, as hyper, which goes on answering until it is answered.
    pub(crate) fn say_goodbye(&mut self) {
        let mut goodbye = Vec::new();
        frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], &mut goodbye);
        frame(PING, 0, 0, &[11; 8], &mut goodbye);
        self.sealer.seal(23, &goodbye, &mut self.out);
    }

    /// An alert, then FIN.
    pub(crate) fn complain(&mut self, alert: [u8; 2]) {
        self.sealer.seal(21, &alert, &mut self.out);
        self.end(Ending::BadRecord);
    }

    /// Says this in one record of its own, now.
    pub(crate) fn say(&mut self, inner: u8, content: &[u8]) {
        self.sealer.seal(inner, content, &mut self.out);
    }

    fn end(&mut self, how: Ending) {
        self.ending = Some(how);
        self.fin = true;
    }

    pub(crate) fn on_end(&mut self, reset: bool) {
        if self.ending.is_none() {
            self.end(if reset { Ending::PeerReset } else { Ending::PeerFin });
        }
    }

    pub(crate) fn on_data(&mut self, bytes: &[u8], now: Instant) {
        self.received.extend_from_slice(bytes);
        while self.ending.is_none() && self.step(now) {}
        self.flush();
    }

    /// Takes one record. False: none is whole.
    fn step(&mut self, now: Instant) -> bool {
        let rest = &self.received[self.read..];
        let [kind, _, _, high, low, ..] = *rest else { return false };
        let total = 5 + usize::from(u16::from_be_bytes([high, low]));
        if rest.len() < total {
            return false;
        }
        let record = rest[..total].to_vec();
        self.read += total;
        self.last_active = Some(now);
        if !self.hello_done {
            self.hello_done = true;
            let hello = hellos::server_hello(self.manner.random, self.manner.suite);
            self.out.extend(hellos::server_flight(&hello));
        } else if kind == 20 {
        } else if self.skipped < UP_RECORDS {
            self.skipped += 1;
            for _ in 0..self.manner.tickets {
                self.sealer.seal(22, &[&[4, 0, 0, 217][..], &[7; 217]].concat(), &mut self.out);
            }
        } else {
            self.protected(&record, now);
        }
        true
    }

    fn protected(&mut self, record: &[u8], now: Instant) {
        let mut content = Vec::new();
        match self.opener.open(record, &mut content) {
            Err(_) => {
                self.sealer.seal(21, &[2, 20], &mut self.out);
                self.end(Ending::BadRecord);
            }
            Ok(21) => self.end(Ending::Alerted(content.try_into().unwrap())),
            Ok(22) => {
                assert_eq!(content, [24, 0, 0, 1, 0], "a KeyUpdate that was asked for");
                self.opener.key_update();
                self.secrets_updated += 1;
            }
            Ok(_) => {
                self.h2.extend(content);
                self.frames(now);
            }
        }
    }

    fn frames(&mut self, now: Instant) {
        if !self.greeted {
            assert_eq!(&self.h2[..3], b"PRI");
            self.h2.drain(..PREFACE);
            self.greeted = true;
            let mut first = Vec::new();
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 128], &mut first);
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0], &mut first);
            self.say_frames(&first);
        }
        while self.h2.len() >= 9 {
            let length =
                usize::from(self.h2[0]) << 16 | usize::from(self.h2[1]) << 8 | usize::from(self.h2[2]);
            if self.h2.len() < 9 + length {
                return;
            }
            let whole: Vec<u8> = self.h2.drain(..9 + length).collect();
            let stream = u32::from_be_bytes([whole[5], whole[6], whole[7], whole[8]]);
            self.frame(whole[3], whole[4], stream, &whole[9..], now);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], now: Instant) {
        match kind {
            HEADERS if stream >= 1001 && payload.get(2..5) == Some(b"GET") => self.page(stream, now),
            HEADERS => self.request(stream, payload.first() == Some(&0x02)),
            SETTINGS if flags & 1 == 0 => {
                self.window(payload);
                let mut ack = Vec::new();
                frame(SETTINGS, 1, 0, &[], &mut ack);
                self.say_frames(&ack);
            }
            PING if flags & 1 != 0 => self.pongs += 1,
            PING => {
                let mut pong = Vec::new();
                frame(PING, 1, 0, payload, &mut pong);
                self.say_frames(&pong);
            }
            WINDOW_UPDATE if stream == 0 => {
                self.credit += u64::from(u32::from_be_bytes(payload.try_into().unwrap()));
            }
            _ => {}
        }
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE holds for streams that are there, too.
    fn window(&mut self, settings: &[u8]) {
        for setting in settings.chunks(6).filter(|setting| setting[1] == 4) {
            self.windowless = setting[2..] == [0; 4];
        }
        if let (false, Some((stream, _))) = (self.windowless, self.standing) {
            self.standing = None;
            let mut body = Vec::new();
            frame(DATA, 1, stream, PAGE, &mut body);
            self.say_frames(&body);
        }
    }

    /// A keeper asks for the page.
    fn page(&mut self, stream: u32, now: Instant) {
        self.requests += 1;
        let mut out = Vec::new();
        frame(HEADERS, 4, stream, &[0x88], &mut out);
        if self.windowless {
            self.standing = Some((stream, now));
            self.stood += 1;
        } else {
            frame(DATA, 1, stream, PAGE, &mut out);
        }
        self.say_frames(&out);
    }

    /// Answers by order: the page, its images, then the last. `head`: without a body.
    fn request(&mut self, stream: u32, head: bool) {
        self.requests += 1;
        let number = self.requests;
        if self.manner.mute_at == Some(number) {
            return;
        }
        self.ask(self.manner.ping_at == Some(number), self.manner.key_update_at == Some(number));
        let images = &self.manner.images;
        let (kind, body) = match number.checked_sub(2).map(|n| n as usize) {
            None => ("text/html", page(images.len()).into_bytes()),
            Some(at) if at < images.len() => ("image/png", vec![0x1a; images[at]]),
            Some(_) => ("image/x-icon", vec![0x1c; self.manner.last]),
        };
        let body = if head || stream >= 1001 { Vec::new() } else { body };
        self.answer(stream, kind, &body, number);
    }

    /// Things a server may ask of its client.
    pub(crate) fn ask(&mut self, ping: bool, key_update: bool) {
        if ping {
            let mut ping = Vec::new();
            frame(PING, 0, 0, &[9; 8], &mut ping);
            self.say_frames(&ping);
        }
        if key_update {
            self.flush();
            self.sealer.seal(22, &[24, 0, 0, 1, 1], &mut self.out);
            self.sealer.key_update();
        }
    }

    fn answer(&mut self, stream: u32, kind: &str, body: &[u8], number: u32) {
        // :status 200; content-type, a literal without indexing.
        let mut block = vec![0x88, 0x0f, 0x10, u8::try_from(kind.len()).unwrap()];
        block.extend_from_slice(kind.as_bytes());
        // An etag, so that the answer's first record has a real one's length.
        block.extend([0x0f, 0x13, 60]);
        block.extend([b'e'; 60]);
        let mut out = Vec::new();
        frame(HEADERS, 4 | u8::from(body.is_empty()), stream, &block, &mut out);
        self.say_frames(&out);
        self.ask(self.manner.ping_after == Some(number), self.manner.key_update_after == Some(number));
        let pieces = body.chunks(8_192);
        let count = pieces.len();
        for (place, piece) in pieces.enumerate() {
            let mut out = Vec::new();
            frame(DATA, u8::from(place + 1 == count && !self.manner.empty_end), stream, piece, &mut out);
            self.say_frames(&out);
        }
        if self.manner.empty_end && count > 0 {
            let mut out = Vec::new();
            frame(DATA, 1, stream, &[], &mut out);
            self.say_frames(&out);
        }
    }

    fn say_frames(&mut self, frames: &[u8]) {
        if self.manner.record == 0 {
            self.sealer.seal(23, frames, &mut self.out);
        } else {
            self.unsent.extend_from_slice(frames);
        }
    }

    fn flush(&mut self) {
        if self.manner.record == 0 {
            return;
        }
        for piece in std::mem::take(&mut self.unsent).chunks(self.manner.record) {
            self.sealer.seal(23, piece, &mut self.out);
        }
    }
}

fn page(images: usize) -> String {
    let tags: String = (0..images).map(|n| format!("<img src=\"/{n}.png\">")).collect();
    format!("<!doctype html><html><head><title>Bread</title></head><body>{tags}</body></html>")
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
