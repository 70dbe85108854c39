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
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kilobytes = |key: &str| field(&status, key).map_or(0, |value| value * 1024);
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the program's name in brackets and may hold anything: count from the
        // last bracket.
        let ticks: Vec<f64> =
            stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect();
        let tick = |field: usize| ticks.get(field - 3).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
        let boot = field(&fs::read_to_string("/proc/stat").unwrap_or_default(), "btime").unwrap_or(0);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            resident_bytes: kilobytes("VmRSS:"),
            resident_peak_bytes: kilobytes("VmHWM:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            max_fds: field(&limits, "Max open files").unwrap_or(0),
            threads: field(&status, "Threads:").unwrap_or(0),
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
