//! A decoy for the tests: it answers requests by a function, over the same frames a real one uses.

use std::collections::VecDeque;

use super::decode::Decoder;
use super::encode::Encoder;
use super::frame::{self, Cutter, PREFACE, flag, kind};

/// An answer: status, further fields, body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The stream stays open.
    pub(crate) open: bool,
}

impl Answer {
    pub(crate) fn html(body: &str) -> Self {
        Self::of("text/html", body.as_bytes())
    }

    pub(crate) fn of(kind: &str, body: &[u8]) -> Self {
        Self { status: 200, fields: vec![("content-type", kind.into())], body: body.to_vec(), open: false }
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self { status: 302, fields: vec![("location", to.into())], body: Vec::new(), open: false }
    }

    pub(crate) fn open(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new(), open: true }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// One request as the decoy read it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) fields: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.get(":path").unwrap_or_default()
    }
}

pub(crate) struct Decoy<F> {
    pub(crate) answer: F,
    /// What its SETTINGS say.
    pub(crate) settings: Vec<(u16, u32)>,
    began: bool,
    preface: usize,
    cutter: Cutter,
    decoder: Decoder,
    encoder: Encoder,
    pub(crate) requests: Vec<Request>,
    /// Frames that are no request: kind, flags, payload.
    pub(crate) others: Vec<(u8, u8, Vec<u8>)>,
    pub(crate) out: VecDeque<Vec<u8>>,
}

impl<F: FnMut(&Request) -> Answer> Decoy<F> {
    pub(crate) fn new(answer: F) -> Self {
        Self {
            answer,
            settings: vec![(3, 128), (4, 65_536), (5, 16_777_215)],
            began: false,
            preface: 0,
            cutter: Cutter::default(),
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            requests: Vec::new(),
            others: Vec::new(),
            out: VecDeque::new(),
        }
    }

    /// Takes one record's content from the client. Its answers are in `out`, one record each.
    pub(crate) fn take(&mut self, mut record: &[u8]) {
        if self.preface == 0 {
            record = record.strip_prefix(PREFACE).expect("the preface comes first");
            self.preface = 1;
        }
        if !self.began {
            self.began = true;
            let mut out = Vec::new();
            frame::settings(&self.settings, &mut out);
            frame::window_update(0, 2_147_418_112, &mut out);
            self.out.push_back(out);
        }
        self.cutter.push(record);
        let mut cutter = std::mem::take(&mut self.cutter);
        while let Some(frame) = cutter.next().expect("frames of legal length") {
            if frame.kind == kind::HEADERS {
                let mut fields = Vec::new();
                let block = frame.content().expect("padding fits");
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.decoder.decode(block, |n, v| fields.push((text(n), text(v)))).expect("HPACK");
                let request = Request { fields };
                let answer = (self.answer)(&request);
                self.respond(frame.stream, &answer);
                self.requests.push(request);
            } else {
                if frame.kind == kind::SETTINGS && !frame.has(flag::ACK) {
                    let mut out = Vec::new();
                    frame::header(kind::SETTINGS, flag::ACK, 0, 0, &mut out);
                    self.out.push_back(out);
                }
                self.others.push((frame.kind, frame.flags, frame.payload.to_vec()));
            }
        }
        self.cutter = cutter;
    }

    fn respond(&mut self, stream: u32, answer: &Answer) {
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        self.encoder.field(":status", &answer.status.to_string(), &mut block);
        for (name, value) in &answer.fields {
            self.encoder.field(name, value, &mut block);
        }
        let mut out = Vec::new();
        let end = if answer.body.is_empty() && !answer.open { flag::END_STREAM } else { 0 };
        frame::header(kind::HEADERS, flag::END_HEADERS | end, stream, block.len(), &mut out);
        out.extend_from_slice(&block);
        self.out.push_back(out);
        let pieces = answer.body.chunks(8192).count();
        for (place, piece) in answer.body.chunks(8192).enumerate() {
            let end = if place + 1 == pieces { flag::END_STREAM } else { 0 };
            let mut out = Vec::new();
            frame::header(kind::DATA, end, stream, piece.len(), &mut out);
            out.extend_from_slice(piece);
            self.out.push_back(out);
        }
    }
}
