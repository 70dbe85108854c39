//! What the kernel says of this process, read from `/proc`. Elsewhere than on Linux every number is
//! zero.

use std::fs;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Ticks of `/proc/self/stat` in a second: `USER_HZ`, which is 100 on every architecture that
/// Rust's standard library supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// This process, as the kernel sees it now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Process {
    /// Memory that lies in RAM.
    pub resident_bytes: u64,
    /// The most that ever lay in RAM.
    pub resident_peak_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many may be open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// CPU time used, user and system.
    pub cpu_seconds: f64,
    /// When it was started, in seconds since 1970-01-01 UTC.
    pub start_unix_seconds: f64,
}

impl Process {
    /// Reads the numbers; what cannot be read is zero.
    #[must_use]
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        Self {
            open_fds,
            ..Self::of(&text("/proc/self/status"), &text("/proc/self/stat"), &text("/proc/stat"), &text("/proc/self/limits"))
        }
    }

    /// What the files say: `/proc/self/status`, `/proc/self/stat`, `/proc/stat`,
    /// `/proc/self/limits`.
    fn of(status: &str, stat: &str, machine: &str, limits: &str) -> Self {
        let kilobytes = |key: &str| field(status, key).map_or(0, |value| value * 1024);
        // The second field is the program's name in brackets and may hold anything: count from the
        // last bracket.
        let ticks: Vec<f64> =
            stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect();
        let tick = |field: usize| ticks.get(field - 3).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
        let boot = field(machine, "btime").unwrap_or(0);
        Self {
            resident_bytes: kilobytes("VmRSS:"),
            resident_peak_bytes: kilobytes("VmHWM:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_fds: 0,
            max_fds: field(limits, "Max open files").unwrap_or(0),
            threads: field(status, "Threads:").unwrap_or(0),
            cpu_seconds: tick(14) + tick(15),
            start_unix_seconds: boot as f64 + tick(22),
        }
    }
}

/// The first number after `key` at the beginning of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The families of Prometheus's own client libraries, under their names.
pub(super) fn families(process: &Process) -> Vec<MetricFamily> {
    let gauges = [
        ("process_resident_memory_bytes", "Memory that lies in RAM.", process.resident_bytes as f64),
        ("process_virtual_memory_bytes", "Address space.", process.virtual_bytes as f64),
        ("process_open_fds", "Open file descriptors.", process.open_fds as f64),
        ("process_max_fds", "How many file descriptors may be open.", process.max_fds as f64),
        ("process_threads", "Threads.", process.threads as f64),
        ("process_start_time_seconds", "Start of the process since 1970-01-01 UTC.", process.start_unix_seconds),
    ];
    let mut families = Vec::new();
    for (name, help, value) in gauges {
        let gauge = Gauge::new(name, help).expect("a constant name is valid");
        gauge.set(value);
        families.extend(gauge.collect());
    }
    let cpu = Counter::new("process_cpu_seconds_total", "CPU time used, user and system.").expect("a constant name is valid");
    cpu.inc_by(process.cpu_seconds);
    families.extend(cpu.collect());
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of `stat` are counted from one: state is the third, the times are the 14th, the
    /// 15th and the 22nd.
    fn made_up() -> Process {
        let status = "Name:\tx\nVmPeak:\t 9000 kB\nVmSize:\t 7000 kB\nVmHWM:\t 50 kB\nVmRSS:\t 30 kB\nThreads:\t12\n";
        let stat = "1 (a) b) S 4 5 6 7 8 9 10 11 12 13 250 75 16 17 18 19 20 21 4500 23 24";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024       524288      files\n";
        Process { open_fds: 8, ..Process::of(status, stat, "cpu 1 2\nbtime 1700000000\nprocesses 3\n", limits) }
    }

    #[test]
    fn the_files_of_the_kernel_are_read() {
        let right = Process {
            resident_bytes: 30 << 10,
            resident_peak_bytes: 50 << 10,
            virtual_bytes: 7_000 << 10,
            open_fds: 8,
            max_fds: 1_024,
            threads: 12,
            cpu_seconds: 3.25,
            start_unix_seconds: 1_700_000_045.0,
        };
        assert_eq!(made_up(), right);
        assert_eq!(Process::of("", "", "", ""), Process::default(), "what cannot be read is zero");
    }

    #[test]
    fn each_number_is_told_under_its_name() {
        let told: Vec<(String, f64)> = families(&made_up())
            .iter()
            .map(|family| {
                let metric = &family.get_metric()[0];
                (family.name().to_owned(), metric.get_gauge().get_value() + metric.get_counter().get_value())
            })
            .collect();
        let right = [
            ("process_resident_memory_bytes", 30.0 * 1024.0),
            ("process_virtual_memory_bytes", 7_000.0 * 1024.0),
            ("process_open_fds", 8.0),
            ("process_max_fds", 1_024.0),
            ("process_threads", 12.0),
            ("process_start_time_seconds", 1_700_000_045.0),
            ("process_cpu_seconds_total", 3.25),
        ];
        assert_eq!(told, right.map(|(name, value)| (name.to_owned(), value)));
    }
}
