//! The short form of `./dev bench soak`: some thousand random streams through a bridge, with carriers cut and sessions that come and go.

use std::time::Duration;

use anyhow::{Result, ensure};
use qnet_bench::soak::{Amount, run};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::pt::built;

#[test]
fn nothing_is_lost_and_nothing_sticks() -> Result<()> {
    isolated("nothing_is_lost_and_nothing_sticks", || {
        let programs = [built("qnet")?, built("qnet-bridge")?];
        let amount = Amount {
            streams: 20_000,
            time: Duration::from_secs(30),
            at_once: 32,
            rest: Duration::from_secs(8),
        };
        let report = run(programs, amount, |_| {})?;
        let wrong = [report.corrupt, report.lost, report.silent];
        ensure!(wrong == [0; 3], "wrong, lost, lost silently: {wrong:?}; {:?}", report.wrong);
        ensure!(report.wrong.is_empty(), "stuck at the near end: {:?}", report.wrong);
        let [before, after] = report.rest.map(|sample| sample.descriptors);
        ensure!(after[0] <= before[0], "client: {} descriptors before, {} after", before[0], after[0]);
        // A proxy that ends while its carrier is cut or frozen cannot say so, and its session is kept (docs/protocol.md, section
        // 16), with its streams and the connections that they lead to.
        let kept = report.ended_with_proxy;
        ensure!(report.stuck <= kept, "{} stuck at the far end, {kept} ended with their proxy", report.stuck);
        let most = before[1] + usize::try_from(kept)?;
        ensure!(after[1] <= most, "bridge: {} descriptors before, {} after", before[1], after[1]);
        // On a machine that does other things they are fewer, but never so few.
        ensure!(
            report.whole > 200 && report.broken > 100,
            "{} whole, {} broken",
            report.whole,
            report.broken
        );
        ensure!(report.sessions >= 2 && report.carriers >= 3, "{} sessions", report.sessions);
        Ok(())
    })
}
