//! Whose turn it is: as an observer counts, for whom every record counts, and as the two sides know it, for whom data alone does.

/// Fewer bytes are credit and acknowledgements: neither an answer nor a question.
pub(super) const LEAST_DATA: usize = 64;

/// The latest bursts of both sides, seen from one that answers.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The last bursts on the wire: the peer's, ours, the peer's latest.
    window: [usize; 3],
    /// Ours since then.
    burst: usize,
    /// Ours since the peer's last data.
    answer: usize,
    /// The peer has sent data since our last.
    turn: bool,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self { turn: true, ..Self::default() }
    }

    /// A record came: this long, with so much in it.
    pub(super) fn heard(&mut self, length: usize, content: usize) {
        if self.burst > 0 {
            let [_, _, asks] = self.window;
            self.window = [asks, self.burst, 0];
            self.burst = 0;
        }
        self.window[2] += length;
        self.turn |= content >= LEAST_DATA;
    }

    /// Whether this many bytes of data begin an answer.
    pub(super) fn begins(&self, data: usize) -> bool {
        self.turn && data >= LEAST_DATA
    }

    pub(super) fn begin(&mut self) {
        self.turn = false;
        self.answer = 0;
    }

    pub(super) fn is_peers(&self) -> bool {
        self.turn
    }

    /// A record went out.
    pub(super) fn sent(&mut self, length: usize) {
        self.burst += length;
        self.answer += length;
    }

    /// Our bytes since the peer's last data.
    pub(super) fn answer(&self) -> usize {
        self.answer
    }

    /// Our bytes since the peer's last record.
    pub(super) fn burst(&self) -> usize {
        self.burst
    }

    /// The last four bursts, ours being so long.
    pub(super) fn with(&self, burst: usize) -> [usize; 4] {
        let [asked, answered, asks] = self.window;
        [asked, answered, asks, burst]
    }
}
