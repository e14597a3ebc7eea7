//! What a process has used, from its clock and `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Time on a processor, user and system, of all threads since the process began, those that have ended included: its CPU-time
/// clock (`clock_getcpuclockid(3)`), whose steps are a thousand times finer than those of `/proc/PID/stat`.
///
/// # Errors
/// The process is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?)).context("the program has ended")?;
    Ok(clock.now().context("the program has ended")?.into())
}

/// Memory that is resident, in bytes. From `smaps_rollup`, which counts pages; `VmRSS` may lag by dozens of them a thread.
///
/// # Errors
/// The process is gone.
pub fn resident(pid: u32) -> Result<u64> {
    rolled_up(pid, "Rss:")
}

/// The same with its share only of pages that other processes have as well, in bytes.
///
/// # Errors
/// The process is gone.
pub fn proportional(pid: u32) -> Result<u64> {
    rolled_up(pid, "Pss:")
}

/// Open descriptors.
///
/// # Errors
/// The process is gone, or somebody else's.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("the program has ended")?.count())
}

fn rolled_up(pid: u32, label: &str) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the program has ended")?;
    kilobytes(&rollup, label)
        .map(|kilobytes| kilobytes * 1_024)
        .context("an unreadable /proc/PID/smaps_rollup")
}

/// A line's figure in a file of `/proc` that gives kilobytes.
pub(crate) fn kilobytes(rollup: &str, label: &str) -> Option<u64> {
    rollup.lines().find_map(|line| line.strip_prefix(label))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::{cpu, descriptors, kilobytes, proportional, resident};

    #[test]
    fn the_figure_is_found() {
        assert_eq!(kilobytes("Rss:                1234 kB\nPss:  5 kB", "Rss:"), Some(1_234));
    }

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 100_000);
        assert!((100_000..=resident(own).unwrap()).contains(&proportional(own).unwrap()));
        assert!(descriptors(own).unwrap() >= 3);
        let before = cpu(own).unwrap();
        let sum = (0..1_000_000_u64).fold(0, |sum, number| black_box(sum ^ number));
        assert!(cpu(own).unwrap() > before, "{sum}");
        assert!(cpu(u32::MAX).is_err());
    }
}
