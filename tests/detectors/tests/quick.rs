//! The quick part of the lab: one web server, a path of 20 ms. Every control must hold, and QNet must pass.
//!
//! `./dev detect --full` runs the rest.

use std::io::Write;

use anyhow::{Result, ensure};
use qnet_detectors::detectors;
use qnet_detectors::programs::Programs;
use qnet_detectors::report::Report;
use qnet_detectors::stage::{Field, Plan};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::pt::built;

/// What is judged by lengths alone. The others judge by time, which a machine that builds and tests at once has none to give for.
const QUICK: &[u8] = &[1, 4, 6, 7, 8];

#[test]
fn controls_hold_and_qnet_passes() -> Result<()> {
    // Before there is no network to ask, though nothing is downloaded.
    let programs = Programs::built_by(built)?;
    isolated("controls_hold_and_qnet_passes", || {
        // A network of tors has to keep its times, on a machine that is left alone.
        let plan = Plan { real_tor: false, ..Plan::quick() };
        let field = Field::capture(plan, programs, |_| ())?;
        let mut detectors = detectors::without_visits();
        detectors.retain(|detector| QUICK.contains(&detector.about().number));
        let report = Report::of(&detectors, &field, |_| ());
        writeln!(std::io::stdout(), "{}", report.table())?;
        let failures = report.failures();
        ensure!(failures.is_empty(), "{failures:#?}");
        Ok(())
    })
}
