//! The process's own figures, read from `/proc` (Linux; elsewhere these families are absent).
//!
//! All of it is text, so that no system call needs unsafe code. The clock tick of `/proc/self/stat` is 100 Hz
//! towards user space on every architecture that we build for, and memory is read where it stands in kilobytes.

use std::fs;

/// Ticks per second of the times in `/proc/self/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Figures of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// CPU time of all threads, user and system.
    pub cpu_seconds: f64,
    /// When the process started, Unix time.
    pub start_time_seconds: f64,
    /// Resident memory.
    pub resident_bytes: f64,
    /// Address space.
    pub virtual_bytes: f64,
    /// Threads.
    pub threads: f64,
    /// Open file descriptors.
    pub open_fds: f64,
    /// The soft limit of file descriptors.
    pub max_fds: f64,
}

impl ProcessFigures {
    /// Reads the figures now. `None` where there is no `/proc`.
    #[must_use]
    pub fn read() -> Option<Self> {
        let mut figures = Self::default();
        figures.take_stat(&fs::read_to_string("/proc/self/stat").ok()?)?;
        figures.start_time_seconds += boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
        figures.take_status(&fs::read_to_string("/proc/self/status").ok()?);
        figures.max_fds = max_fds(&fs::read_to_string("/proc/self/limits").ok()?)?;
        // The listing itself holds one descriptor open.
        let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        figures.open_fds = f64::from(u32::try_from(open).unwrap_or(u32::MAX));
        Some(figures)
    }

    /// Times out of `/proc/self/stat`: the fields behind the name, which may hold spaces and parentheses.
    fn take_stat(&mut self, stat: &str) -> Option<()> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        self.cpu_seconds = (number(11)? + number(12)?) / TICKS_PER_SECOND;
        self.start_time_seconds = number(19)? / TICKS_PER_SECOND;
        Some(())
    }

    fn take_status(&mut self, status: &str) {
        for line in status.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let number = value
                .split_ascii_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0);
            match name {
                "VmRSS" => self.resident_bytes = number * 1024.0,
                "VmSize" => self.virtual_bytes = number * 1024.0,
                "Threads" => self.threads = number,
                _ => {}
            }
        }
    }
}

/// Unix time of the machine's start, out of `/proc/stat`.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// The soft limit of open files, out of `/proc/self/limits`.
fn max_fds(limits: &str) -> Option<f64> {
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?;
    if soft == "unlimited" {
        Some(f64::INFINITY)
    } else {
        soft.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let mut figures = ProcessFigures::default();
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 4 0 12345 999 88";
        assert_eq!(figures.take_stat(stat), Some(()));
        assert_eq!((figures.cpu_seconds, figures.start_time_seconds), (4.0, 123.45));
        assert_eq!(figures.take_stat("7 (cut short) S 1"), None);
    }

    #[test]
    fn limits_may_be_unlimited() {
        assert_eq!(
            max_fds("Limit Soft Hard\nMax open files   1024   4096  files\n"),
            Some(1024.0)
        );
        assert_eq!(
            max_fds("Max open files   unlimited  unlimited  files\n"),
            Some(f64::INFINITY)
        );
        assert_eq!(max_fds(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let figures = ProcessFigures::read().unwrap();
        assert!(figures.resident_bytes > 4096.0 && figures.virtual_bytes >= figures.resident_bytes);
        assert!(figures.threads >= 1.0 && figures.open_fds >= 3.0 && figures.max_fds >= figures.open_fds);
        assert!(figures.start_time_seconds > 1e9, "{}", figures.start_time_seconds);
    }
}
