//! What a process of this machine has used so far: processor time and memory, from `/proc`.

use core::time::Duration;
use std::fs;
use std::io;

/// Ticks of the times in `/proc/PID/stat`. Linux shows user space 100 per second everywhere.
const TICK: Duration = Duration::from_millis(10);

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Usage {
    /// Processor time of all threads.
    pub(super) cpu: Duration,
    /// Memory resident, KiB.
    pub(super) resident_kib: u64,
    /// The same, shared pages divided among those that share them; 0 if the system does not tell.
    pub(super) proportional_kib: u64,
}

impl Usage {
    /// Looks at process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        // Not everybody may look, and old kernels do not tell.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Ok(Self {
            cpu: cpu(pid)?,
            resident_kib: kib(&status, "VmRSS:").unwrap_or(0),
            proportional_kib: kib(&rollup, "Pss:").unwrap_or(0),
        })
    }
}

/// Processor time of all threads of `pid`, in nanoseconds where the kernel counts them.
pub(super) fn cpu(pid: u32) -> io::Result<Duration> {
    match of_threads(pid)? {
        Some(time) => Ok(time),
        None => of_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// The sum over the threads there are; `None` where the kernel does not count by nanosecond. A
/// thread that ended is not in it, so the servers of interest keep theirs.
fn of_threads(pid: u32) -> io::Result<Option<Duration>> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            return Ok(None);
        };
        let Some(ns) = text.split_whitespace().next().and_then(|word| word.parse().ok()) else {
            return Ok(None);
        };
        sum = sum.saturating_add(Duration::from_nanos(ns));
    }
    Ok(Some(sum))
}

/// User and system time in the text of `/proc/PID/stat`.
fn of_ticks(stat: &str) -> Option<Duration> {
    // The name of the program is in parentheses and may contain anything, parentheses included.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK.saturating_mul(user.saturating_add(system)))
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_ticks() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(of_ticks(stat), Some(Duration::from_secs(2)));
        assert_eq!(of_ticks("12 (a"), None);
    }

    #[test]
    fn memory() {
        let text = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t     812 kB\n";
        assert_eq!((kib(text, "VmRSS:"), kib(text, "Pss:")), (Some(812), None));
    }

    #[test]
    fn this_process_uses_something() {
        let me = std::process::id();
        let before = Usage::of(me).unwrap();
        assert!(before.resident_kib > 0);
        let mut work = 0_u64;
        while cpu(me).unwrap() <= before.cpu {
            work = core::hint::black_box(work.wrapping_add(1));
        }
        assert!(Usage::of(u32::MAX).is_err());
    }
}
