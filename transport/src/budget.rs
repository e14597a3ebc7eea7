//! How many hellos a bridge opens: each costs an elliptic-curve operation, and anybody can send them. Beyond the budget a hello is a
//! visitor's, which costs nothing and shows nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Openings a second for one /24 or /64, and how many at once: a school or a carrier's NAT fits, a flood does not.
const PREFIX_RATE: f64 = 10.0;
const PREFIX_BURST: f64 = 200.0;
/// Openings a second in all: at about 0.1 ms each a tenth of a core.
const GLOBAL_RATE: f64 = 1_000.0;
const GLOBAL_BURST: f64 = 4_000.0;
/// Prefixes remembered. Full ones are forgotten first; when all are busy, a new one shares the global budget only.
const MAX_PREFIXES: usize = 16_384;

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: f64, burst: f64, now: Instant) {
        let elapsed: Duration = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * rate).min(burst);
        self.at = now;
    }

    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        self.refill(rate, burst, now);
        let had = self.tokens >= 1.0;
        if had {
            self.tokens -= 1.0;
        }
        had
    }
}

/// The openings left: for each client network first, then for all.
pub(crate) struct Budget {
    prefixes: HashMap<u64, Bucket>,
    global: Bucket,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { prefixes: HashMap::new(), global: Bucket { tokens: GLOBAL_BURST, at: now } }
    }

    /// Whether a hello from this address may be opened.
    pub(crate) fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        let prefix = prefix(ip);
        if self.prefixes.len() >= MAX_PREFIXES && !self.prefixes.contains_key(&prefix) {
            self.forget_full(now);
        }
        if self.prefixes.len() < MAX_PREFIXES || self.prefixes.contains_key(&prefix) {
            let fresh = Bucket { tokens: PREFIX_BURST, at: now };
            if !self.prefixes.entry(prefix).or_insert(fresh).take(PREFIX_RATE, PREFIX_BURST, now) {
                return false;
            }
        }
        self.global.take(GLOBAL_RATE, GLOBAL_BURST, now)
    }

    fn forget_full(&mut self, now: Instant) {
        self.prefixes.retain(|_, bucket| {
            bucket.refill(PREFIX_RATE, PREFIX_BURST, now);
            bucket.tokens < PREFIX_BURST
        });
    }
}

/// The /24 of an IPv4 address, the /64 of an IPv6 one; the two never share a number that matters.
pub(crate) fn prefix(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        crate::driver::now()
    }

    #[test]
    fn one_network_cannot_use_up_the_others_share() {
        let start = now();
        let mut budget = Budget::new(start);
        let flood: IpAddr = "192.0.2.1".parse().unwrap();
        let neighbour: IpAddr = "192.0.2.200".parse().unwrap();
        let other: IpAddr = "198.51.100.1".parse().unwrap();
        let allowed = (0..10_000u32).filter(|_| budget.take(flood, start)).count();
        assert_eq!(allowed.to_string(), PREFIX_BURST.to_string());
        assert!(!budget.take(neighbour, start));
        assert!(budget.take(other, start));
        assert!(budget.take(flood, start + Duration::from_secs(1)));
    }

    #[test]
    fn many_networks_meet_the_global_budget() {
        let start = now();
        let mut budget = Budget::new(start);
        let ip = |i: u32| IpAddr::V4((i << 8).into());
        let allowed = (0..10_000).filter(|&i| budget.take(ip(i), start)).count();
        assert_eq!(allowed.to_string(), GLOBAL_BURST.to_string());
    }

    #[test]
    fn memory_is_bounded() {
        let start = now();
        let mut budget = Budget::new(start);
        for i in 0..40_000u32 {
            budget.take(IpAddr::V4((i << 8).into()), start);
        }
        assert!(budget.prefixes.len() <= MAX_PREFIXES);
    }
}
