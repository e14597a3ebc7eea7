//! One stream: its state, its two queues, its credit.

use super::flow::{Credit, Granted};
use super::queue::{Pool, Queue};
use super::turns::Share;

/// What has crossed the wire. `C0` is CLOSE with code 0, `Cx` with another code; `>` we sent it, `<` we got it.
///
/// ```text
///              open(), or first STREAM <
///                        |
///                        v
///        > C0  +------- Open -------+  < C0
///              v                    v
///           SentEnd              GotEnd
///              |  < C0       > C0   |
///              +------> Done <------+
///
///   Open, SentEnd, GotEnd   -- cancel() -->  Cancelling  -- > Cx, or < Cx -->  Ended by us
///   Open, SentEnd           -- < Cx ------>  Ended by the peer, unread data dropped
///   GotEnd                  -- < Cx ------>  Ended by the peer, its data whole and readable
///   Open, not yet announced -- cancel() -->  Ended by us; its id is never used
/// ```
///
/// Done and Ended are over: the entry waits for the user's handle alone. A Cx that comes when the stream is Done
/// crossed our C0 on its way and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Both directions go.
    Open,
    /// Ours has ended.
    SentEnd,
    /// Theirs has ended.
    GotEnd,
    /// Both have ended well.
    Done,
    /// We cancelled; the CLOSE with this code is still to be sent.
    Cancelling(u8),
    /// Both directions were ended before their time.
    Ended(Ending),
}

/// Who ended a stream before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// We did.
    Ours,
    /// The peer did.
    Theirs {
        /// CLOSE code.
        code: u8,
        /// Its data had ended before, so what is queued is all of it.
        whole: bool,
    },
}

impl State {
    /// Nothing more is owed on the wire by either side.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Ended(_))
    }

    /// We may still send data or the end of it.
    pub(super) fn can_send(self) -> bool {
        matches!(self, Self::Open | Self::GotEnd)
    }

    /// The peer may still send data.
    pub(super) fn can_receive(self) -> bool {
        matches!(self, Self::Open | Self::SentEnd)
    }

    /// What is queued for the user is all the peer sent.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::GotEnd | Self::Done | Self::Ended(Ending::Theirs { whole: true, .. }))
    }
}

/// Which list of streams with something to send this one is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// None: nothing to send, or no credit of its own.
    Out,
    /// Its turn comes.
    Ready,
    /// It waits for the connection's credit.
    Blocked,
}

/// An entry of the stream table.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: State,
    /// We opened it.
    pub(super) ours: bool,
    /// Its first STREAM frame has been sent or received.
    pub(super) announced: bool,
    /// The user has it; false while it waits for `accept`.
    pub(super) accepted: bool,
    /// The user dropped it.
    pub(super) released: bool,
    /// CLOSE 0 follows the queued data.
    pub(super) finishing: bool,
    pub(super) incoming: Queue,
    pub(super) outgoing: Queue,
    pub(super) granted: Granted,
    pub(super) credit: Credit,
    pub(super) place: Place,
    pub(super) share: Share,
    /// In the list of streams with a CLOSE or a WINDOW_UPDATE to send.
    pub(super) in_control: bool,
    pub(super) update_due: bool,
    /// In the list of wakes.
    pub(super) in_wakes: bool,
    pub(super) wake_readable: bool,
    pub(super) wake_writable: bool,
    /// The reader found nothing (or has not looked yet) and is owed a wake.
    pub(super) reader_waits: bool,
    /// The writer's last data did not all fit.
    pub(super) writer_waits: bool,
}

impl Stream {
    /// `granted` and `credit` are the initial windows in bytes.
    pub(super) fn new(ours: bool, granted: u64, credit: u64) -> Self {
        Self {
            state: State::Open,
            ours,
            announced: !ours,
            accepted: ours,
            released: false,
            finishing: false,
            incoming: Queue::default(),
            outgoing: Queue::default(),
            granted: Granted::new(granted),
            credit: Credit::new(credit),
            place: Place::Out,
            share: Share::default(),
            in_control: false,
            update_due: false,
            in_wakes: false,
            wake_readable: false,
            wake_writable: false,
            reader_waits: true,
            writer_waits: false,
        }
    }

    /// A read would not say "empty".
    pub(super) fn is_readable(&self) -> bool {
        let failed = matches!(self.state, State::Cancelling(_) | State::Ended(_));
        failed || self.state.is_whole() || !self.incoming.is_empty()
    }

    /// Nobody will read what still comes.
    pub(super) fn discards(&self) -> bool {
        self.released || !self.state.can_receive()
    }

    /// It has data, an end or its own opening to send, credit aside.
    pub(super) fn has_output(&self) -> bool {
        self.state.can_send() && (!self.announced || self.finishing || !self.outgoing.is_empty())
    }

    /// It could send something if the connection's credit allowed.
    pub(super) fn can_go(&self) -> bool {
        self.has_output() && (!self.announced || self.outgoing.is_empty() || self.credit.left() > 0)
    }

    /// Drops the bytes to be sent; returns how many.
    pub(super) fn drop_outgoing(&mut self, pool: &mut Pool) -> usize {
        self.finishing = false;
        self.outgoing.clear(pool)
    }
}
