//! What the page shows, as JSON. No address and no name of a bridge is in it, and none of a target.

use qnet_transport::Counters;
use qnet_wire::bridge_line::Cover;
use serde::Serialize;
use tokio::time::Instant;

use super::Status;
use crate::pool::{Bridge, Phase};
use crate::traffic::Totals;

/// When the proxy began.
#[derive(Clone, Copy)]
pub(super) struct Uptime(Instant);

impl Uptime {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }
}

/// Everything.
#[derive(Serialize)]
pub(super) struct Report {
    version: &'static str,
    uptime_seconds: u64,
    state: Overall,
    bridges: Vec<BridgeReport>,
    traffic: Totals,
}

/// What there is altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Overall {
    /// Of a bridge alone: others are connected to.
    Standby,
    /// No bridge can be used.
    Offline,
    /// A bridge is being connected to, or one that was connected seems silent and is looked at.
    Calibrating,
    /// Something came back through a bridge from a host behind it.
    Connected,
}

#[derive(Serialize)]
struct BridgeReport {
    number: usize,
    cover: &'static str,
    profile: String,
    state: Overall,
    round_trip_ms: Option<u64>,
    proved_seconds_ago: Option<u64>,
    connected_seconds: Option<u64>,
    shaping: Option<Shaping>,
    trouble: Option<String>,
}

/// What the shape of its traffic has cost on this side since it was connected to, and how often it was left.
#[derive(Serialize)]
struct Shaping {
    records: u64,
    bytes: u64,
    padding_records: u64,
    padding_bytes: u64,
    cover_bytes: u64,
    held_ms: u64,
    off_schedule: u64,
    over_budget: u64,
    late: u64,
}

impl From<Counters> for Shaping {
    fn from(counters: Counters) -> Self {
        Self {
            records: counters.records,
            bytes: counters.carried,
            padding_records: counters.padding_records,
            padding_bytes: counters.padding,
            cover_bytes: counters.cover,
            held_ms: u64::try_from(counters.held.as_millis()).unwrap_or(u64::MAX),
            off_schedule: counters.off_schedule,
            over_budget: counters.over_budget,
            late: counters.late,
        }
    }
}

impl Report {
    pub(super) fn of(status: &Status) -> Self {
        let bridges: Vec<_> =
            status.service.pool.bridges().iter().map(|bridge| BridgeReport::of(bridge)).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: status.uptime.0.elapsed().as_secs(),
            state: bridges.iter().map(|bridge| bridge.state).fold(Overall::Offline, Ord::max),
            bridges,
            traffic: status.service.traffic.totals(),
        }
    }
}

impl BridgeReport {
    fn of(bridge: &Bridge) -> Self {
        let mut report = Self {
            number: bridge.number,
            cover: match bridge.lines.first().map(|line| &line.cover) {
                Some(Cover::Websocket(_)) => "websocket",
                Some(Cover::Mirror(_)) | None => "mirror",
            },
            profile: profile(bridge),
            state: Overall::Offline,
            round_trip_ms: None,
            proved_seconds_ago: None,
            connected_seconds: None,
            shaping: None,
            trouble: None,
        };
        match bridge.phase() {
            Phase::Standby => report.state = Overall::Standby,
            Phase::Dialling => report.state = Overall::Calibrating,
            Phase::Failed(why) => report.trouble = Some(why.as_ref().to_owned()),
            Phase::Up(up) => {
                let proved = up.proved();
                report.state = if up.silent() { Overall::Calibrating } else { Overall::Connected };
                report.round_trip_ms = u64::try_from(proved.round_trip.as_millis()).ok();
                report.proved_seconds_ago = Some(proved.at.elapsed().as_secs());
                report.connected_seconds = Some(up.since.elapsed().as_secs());
                report.shaping = Some(up.tunnel.shaping().into());
            }
        }
        report
    }
}

/// What its traffic is to look like: what its line or the user asks for, or the usual.
fn profile(bridge: &Bridge) -> String {
    match bridge.lines.first().and_then(|line| line.profile.as_ref()) {
        Some(name) => name.as_str().to_owned(),
        None => qnet_transport::Profile::default().shape.profile().name.clone(),
    }
}
