//! What a process has used, from `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The clock of `/proc/PID/stat`: 100 ticks a second on every Linux architecture that Debian has.
const TICKS_A_SECOND: u64 = 100;

/// Time on a processor, user and system, of all threads since the process began; in steps of 10 ms.
///
/// # Errors
/// The process is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the plugin has ended")?;
    let ticks = ticks(&stat).context("an unreadable /proc/PID/stat")?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
}

/// Memory that is resident, in bytes. From `smaps_rollup`, which counts pages; `VmRSS` may lag by dozens of them a thread.
///
/// # Errors
/// The process is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the plugin has ended")?;
    kilobytes(&rollup, "Rss:")
        .map(|kilobytes| kilobytes * 1_024)
        .context("an unreadable /proc/PID/smaps_rollup")
}

/// utime and stime are the 14th and 15th fields; the second is a name in brackets that may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut times = after_name.split(' ').skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

fn kilobytes(rollup: &str, label: &str) -> Option<u64> {
    rollup.lines().find_map(|line| line.strip_prefix(label))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{cpu, kilobytes, resident, ticks};

    #[test]
    fn fields_are_found_whatever_the_name() {
        let stat =
            "7 (a) b) (c) S 1 7 7 0 -1 4194304 90 0 0 0 120 34 0 0 20 0 1 0 5 1000 10 18446744073709551615";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("7 (a"), None);
        assert_eq!(kilobytes("Rss:                1234 kB\nPss:  5 kB", "Rss:"), Some(1_234));
    }

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 100_000);
        assert!(cpu(own).is_ok());
        assert!(cpu(u32::MAX).is_err());
    }
}
