//! Before the proof: bytes go both ways as they are, and the bridge reads along.

use std::time::{Duration, Instant};

use qnet_wire::name::ServerName;

use crate::{
    admission::Candidate,
    bridge::BridgeConfig,
    hello::{Assembler, ClientHello, Progress, ServerHello},
    knock::{self, KnockKey, Suspect, UpHash},
    scan::{self, APPLICATION_DATA, Head, Walk},
    sizes::Lengths,
    token::{self, Token},
};

/// Client bytes after the ClientHello in which a knock may lie: a page load's requests are a few kilobytes.
const WATCHED: usize = 64 * 1024;
/// Tests of one record with one key that a connection may cost, at 0.4 µs or so each. The smallest records that may hold a knock,
/// close together, stay within it where up to 33 clients are invited; a page load's few hundred at most, where as many are as a
/// list takes.
const MAX_TESTS: usize = 65_536;
/// A decoy record shorter than this is no answer to the knock's request: alert, GOAWAY, PING (docs/protocol.md, section 4).
const SHORTEST_ANSWER: usize = 64;
/// So short a record after so long a silence of both sides was not asked for: the decoy says goodbye, as a rule, at its idle limit, which
/// is a second or more. An answer to something may keep one waiting as long, but it does not begin with so short a record.
const SILENCE: Duration = Duration::from_millis(500);

/// What the bytes just seen mean.
pub(super) enum Seen {
    /// Nothing yet.
    Nothing,
    /// A ClientHello that may hold a token is whole.
    Hello,
    /// The knock.
    Knock(Box<Knock>),
    /// A visitor, for good.
    Visitor,
}

/// A knock that was right.
pub(super) struct Knock {
    pub(super) key: KnockKey,
    pub(super) token: Token,
    /// The static key message 3 must show, on a bridge by invitation.
    pub(super) client: Option<[u8; 32]>,
    pub(super) record: Vec<u8>,
}

/// Reads the hellos, then tests client records for the knock.
pub(super) struct Before {
    client: Option<Assembler>,
    server: Option<Assembler>,
    hello: Option<ClientHello>,
    server_hello: Option<ServerHello>,
    token: Option<Token>,
    candidates: Vec<Candidate>,
    client_offset: usize,
    up: UpHash,
    record: Vec<u8>,
    watched: usize,
    tests: usize,
    /// When a byte last came from either side.
    moved: Option<Instant>,
    /// The decoy's record in progress began after a silence.
    after_silence: bool,
    /// The decoy said something unasked, of which nothing that the client has said since shows that it knows.
    unasked: bool,
    pub(super) up_protected: u64,
    pub(super) down: Walk,
    pub(super) up_lengths: Lengths,
    pub(super) down_lengths: Lengths,
}

impl Before {
    pub(super) fn new() -> Self {
        Self {
            client: Some(Assembler::client()),
            server: Some(Assembler::server()),
            hello: None,
            server_hello: None,
            token: None,
            candidates: Vec::new(),
            client_offset: 0,
            up: UpHash::new(),
            record: Vec::new(),
            watched: 0,
            tests: 0,
            moved: None,
            after_silence: false,
            unasked: false,
            up_protected: 0,
            down: Walk::default(),
            up_lengths: Lengths::default(),
            down_lengths: Lengths::default(),
        }
    }

    /// The name the client asked for.
    pub(super) fn name(&self) -> Option<ServerName> {
        self.hello.as_ref()?.sni()?.parse().ok()
    }

    pub(super) fn client_bytes(&mut self, bytes: &[u8], now: Instant) -> Seen {
        self.moved = Some(now);
        let Some(assembler) = &mut self.client else { return self.watch(bytes) };
        let before = self.client_offset;
        self.client_offset += bytes.len();
        match assembler.push(bytes) {
            Progress::More => Seen::Nothing,
            Progress::NotTls => Seen::Visitor,
            Progress::Message { raw, end } => {
                self.client = None;
                let Some(hello) = ClientHello::parse(raw).filter(|h| h.ech().is_some() && h.sni().is_some())
                else {
                    return Seen::Visitor;
                };
                self.hello = Some(hello);
                let rest = &bytes[end.saturating_sub(before).min(bytes.len())..];
                match self.watch(rest) {
                    Seen::Nothing => Seen::Hello,
                    other => other,
                }
            }
        }
    }

    /// Opens the token, or not. False: a visitor.
    pub(super) fn judge(&mut self, config: &BridgeConfig) -> bool {
        let Some(hello) = &self.hello else { return false };
        self.token = token::open(&config.identity, &config.names, hello);
        self.token.is_some() && self.derive(config)
    }

    pub(super) fn decoy_bytes(&mut self, mut bytes: &[u8], config: &BridgeConfig, now: Instant) -> Seen {
        let mut silent =
            self.moved.replace(now).is_some_and(|moved| now.saturating_duration_since(moved) >= SILENCE);
        if let Some(assembler) = &mut self.server {
            match assembler.push(bytes) {
                Progress::More => {}
                Progress::NotTls => return Seen::Visitor,
                Progress::Message { raw, .. } => {
                    self.server = None;
                    let usable = |hello: &ServerHello| hello.is_tls13() && !hello.is_hello_retry();
                    let Some(hello) = ServerHello::parse(raw).filter(usable) else { return Seen::Visitor };
                    self.server_hello = Some(hello);
                    if !self.derive(config) {
                        return Seen::Visitor;
                    }
                }
            }
        }
        while !bytes.is_empty() {
            if self.down.at_boundary() {
                // What comes with it was not preceded by a silence.
                self.after_silence = std::mem::take(&mut silent);
            }
            let Some(piece) = self.down.step(bytes) else { return Seen::Visitor };
            if let Some((APPLICATION_DATA, length)) = piece.header {
                self.down_lengths.note(length);
                self.unasked = length < SHORTEST_ANSWER && (self.after_silence || self.unasked);
            }
            bytes = &bytes[piece.len..];
        }
        Seen::Nothing
    }

    /// Once token and both hellos are there: one key for an open bridge, one for each invited client otherwise.
    fn derive(&mut self, config: &BridgeConfig) -> bool {
        let (Some(token), Some(hello), Some(server)) = (&self.token, &self.hello, &self.server_hello) else {
            return true;
        };
        self.candidates = config.door.candidates(token, knock::salt(hello.raw(), server.raw()));
        !self.candidates.is_empty()
    }

    /// Tests each complete client record; keeps only the one in progress.
    fn watch(&mut self, mut bytes: &[u8]) -> Seen {
        while !bytes.is_empty() {
            let wanted = match scan::head(&self.record) {
                Head::More => scan::HEADER_LEN,
                Head::Foreign => return Seen::Visitor,
                Head::Record { total, .. } => total,
            };
            let n = (wanted - self.record.len()).min(bytes.len());
            self.record.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.watched += n;
            if self.watched > WATCHED || self.tests > MAX_TESTS {
                return Seen::Visitor;
            }
            match scan::head(&self.record) {
                Head::Record { outer, total } if self.record.len() == total => {
                    if let Some(knock) = self.whole_record(outer) {
                        // A byte behind the knock comes before the proof: no client of ours. A knock that crossed the decoy's goodbye
                        // may still be answered, but by a server that is about to close.
                        let good = bytes.is_empty() && !self.unasked;
                        return if good { Seen::Knock(Box::new(knock)) } else { Seen::Visitor };
                    }
                    self.unasked = false;
                }
                Head::Foreign => return Seen::Visitor,
                _ => {}
            }
        }
        Seen::Nothing
    }

    fn whole_record(&mut self, outer: u8) -> Option<Knock> {
        let record = std::mem::take(&mut self.record);
        let mut found = None;
        if outer == APPLICATION_DATA {
            self.up_protected += 1;
            self.up_lengths.note(record.len() - scan::HEADER_LEN);
            found = Suspect::new(&self.up, &record).and_then(|suspect| {
                self.tests += self.candidates.len();
                self.candidates.iter().position(|candidate| suspect.check(&candidate.key).is_some())
            });
        }
        self.up.update(&record);
        let Candidate { key, client } = self.candidates.swap_remove(found?);
        Some(Knock { key, token: self.token.clone()?, client, record })
    }
}

/// After the knock: waiting for the first record of the answer to be whole.
pub(super) struct Knocked {
    pub(super) before: Box<Before>,
    pub(super) knock: Box<Knock>,
    answer_began: bool,
}

/// What a piece of the decoy's stream means after the knock.
pub(super) enum Answer {
    /// Goes on as it is; this many bytes.
    Pass(usize),
    /// Goes on as it is, and the answer's first record ends with it.
    Whole(usize),
    /// No answer: a visitor.
    Visitor,
}

impl Knocked {
    pub(super) fn new(before: Box<Before>, knock: Box<Knock>) -> Self {
        Self { before, knock, answer_began: false }
    }

    pub(super) fn decoy_bytes(&mut self, bytes: &[u8]) -> Answer {
        let begins = self.before.down.at_boundary();
        if begins {
            self.answer_began = true;
        }
        let Some(piece) = self.before.down.step(bytes) else { return Answer::Visitor };
        if let Some((outer, length)) = piece.header
            && self.answer_began
        {
            if outer != APPLICATION_DATA || length < SHORTEST_ANSWER {
                return Answer::Visitor;
            }
            self.before.down_lengths.note(length);
        }
        if piece.ends && self.answer_began { Answer::Whole(piece.len) } else { Answer::Pass(piece.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the smallest records that may hold a knock are tested with so many keys.
    fn tested(clients: u8) -> usize {
        let token = Token::from_inner_name("EAAAAAAAAAAAAAAAAAAAAAAAAAA").expect("a token");
        let mut before = Before::new();
        before.candidates = (0..clients)
            .map(|client| Candidate {
                key: KnockKey::with_salt(&token, Some(&[client; 32]), [0; 32]),
                client: Some([client; 32]),
            })
            .collect();
        let record = [&[23, 3, 3, 0, 28][..], &[0; 28]].concat();
        (0..).take_while(|_| matches!(before.watch(&record), Seen::Nothing)).count()
    }

    #[test]
    fn what_a_strangers_records_cost_is_bounded() {
        // Where few are invited the bytes are the bound.
        assert_eq!(tested(1), WATCHED / 33);
        assert_eq!(tested(33), WATCHED / 33);
        let most = tested(255);
        assert!((256..=258).contains(&most), "{most}");
    }
}
