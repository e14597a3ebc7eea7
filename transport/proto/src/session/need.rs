//! A session's time: when it wants to be called, and when a client wants a carrier.

use std::time::Instant;

use super::{MAX_STRIPES, Mode, Need, Session};
use crate::mux::Role;

impl Session {
    /// When to call [`on_timer`](Self::on_timer).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let need = if self.role == Role::Client { self.need_at() } else { None };
        let need = need.filter(|at| *at > self.pace.looked());
        let ack = self.acks.at.filter(|_| !self.acks.due);
        [need, ack, self.carriers.drained_by()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn on_timer(&mut self, now: Instant) {
        self.pace.look(now);
        self.acks.due |= self.acks.at.is_some_and(|at| at <= now);
        self.acks.at = self.acks.at.filter(|at| *at > now);
        let sent_until = self.carriers.on_timer(now);
        self.send_again_if_lost(sent_until);
    }

    /// Client: why somebody should make a carrier now, if so.
    #[must_use]
    pub fn need(&self, now: Instant) -> Option<Need> {
        let (need, at) = self.coming_need()?;
        (at <= now).then_some(need)
    }

    fn need_at(&self) -> Option<Instant> {
        self.coming_need().map(|(_, at)| at)
    }

    /// The next need there will be if nothing happens, and when.
    fn coming_need(&self) -> Option<(Need, Instant)> {
        if self.role == Role::Bridge
            || self.ended.is_some()
            || self.secret.is_none()
            || self.carriers.asking()
        {
            return None;
        }
        let (need, at) = match self.carriers.detached() {
            Some(since) if !self.log.is_empty() || self.streams.wants_to_send() => (Need::Use, since),
            Some(since) if self.streams.open_streams() > 0 => (Need::Look, self.pace.look_at(since)?),
            Some(_) => return None,
            None => {
                let stall = self.waits().then(|| (Need::Stalled, self.pace.stalled_at()));
                let replace = self.carriers.replace_at();
                let stripe = self.carriers.wants_more(self.profile.stripes);
                [stall, replace, stripe].into_iter().flatten().min_by_key(|(_, at)| *at)?
            }
        };
        Some((need, at.max(self.pace.budget_at())))
    }

    /// Something is due from the peer: an acknowledgement, what it said would follow, or what belongs before what came.
    pub(super) fn waits(&self) -> bool {
        !self.log.is_empty() || self.pace.expecting() || self.inbound.has_gap()
    }

    /// How the carrier that was needed should join.
    #[must_use]
    pub fn mode_for(&self, need: Need) -> Mode {
        match need {
            Need::Use | Need::Look | Need::Stalled => Mode::Replace,
            Need::Age | Need::Volume | Need::GoingAway if self.profile.stripes <= 1 => Mode::Gently,
            _ => Mode::Striped(self.profile.stripes.clamp(2, MAX_STRIPES)),
        }
    }

    /// Client: somebody begins to make a carrier, for this reason.
    pub fn dialled(&mut self, need: Option<Need>, now: Instant) {
        self.pace.dialled(need, now);
    }
}
