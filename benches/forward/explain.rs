//! Where the time of a step goes: each operation, how the threads shared it, and what is left.
//!
//! Operations follow each other without a gap, so their walls add up to the step, but for what the
//! engine does before its first clock and behind its last. Of an operation that threads share,
//! `computing` is what one thread computes on average, `late` how long it takes until its first
//! piece, `idle` how long it waits for the others behind its last. `alone` is what a single thread
//! does meanwhile: small operations, and what lies between the shared parts.

use std::fmt::Write as _;
use std::fs;
use std::sync::LazyLock;
use std::time::Instant;

use antiphon::engine::cpu::OperationTime;

/// Nanoseconds since the first call.
pub(crate) fn now_ns() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).expect("a bench ends within centuries")
}

/// What steps took.
#[derive(Default)]
pub(crate) struct Explained {
    steps: usize,
    step_ns: u64,
    /// Of each kind of operation the sum, and how many there were; in the order of their first.
    kinds: Vec<(OperationTime, usize)>,
}

impl Explained {
    /// Adds a step that took `step_ns` by the clock outside it.
    pub(crate) fn add(&mut self, step_ns: u64, operations: &[OperationTime]) {
        self.steps += 1;
        self.step_ns += step_ns;
        for operation in operations {
            let known = self.kinds.iter().position(|(kind, _)| kind.name == operation.name);
            let at = known.unwrap_or_else(|| {
                self.kinds.push((OperationTime { name: operation.name, ..Default::default() }, 0));
                self.kinds.len() - 1
            });
            let (kind, count) = &mut self.kinds[at];
            *count += 1;
            kind.bytes += operation.bytes;
            kind.wall_ns += operation.wall_ns;
            kind.shared_ns += operation.shared_ns;
            kind.busy_ns += operation.busy_ns;
            kind.late_ns += operation.late_ns;
            kind.idle_ns += operation.idle_ns;
            kind.shares += operation.shares;
            kind.pieces += operation.pieces;
        }
    }

    /// A line for each kind, in microseconds of a step on average; their sum; the step.
    pub(crate) fn table(&self, threads: usize) -> String {
        let us = |ns: u64| ns as f64 / self.steps as f64 / 1e3;
        let mut text = format!(
            "  {:<26} {:>5} {:>10} {:>6} {:>10} {:>7} {:>7} {:>8} {:>7} {:>7}\n",
            "operation", "times", "us a step", "share", "computing", "late", "idle", "alone", "pieces", "GB/s"
        );
        let mut sum = OperationTime::default();
        for (kind, count) in &self.kinds {
            line(&mut text, kind, *count as f64 / self.steps as f64, (us(1), us(self.step_ns), threads));
            sum.bytes += kind.bytes;
            sum.wall_ns += kind.wall_ns;
            sum.shared_ns += kind.shared_ns;
            sum.busy_ns += kind.busy_ns;
            sum.late_ns += kind.late_ns;
            sum.idle_ns += kind.idle_ns;
            sum.pieces += kind.pieces;
        }
        sum.name = "sum";
        line(&mut text, &sum, 1.0, (us(1), us(self.step_ns), threads));
        let left = self.step_ns as f64 - sum.wall_ns as f64;
        let percent = 100.0 * left / self.step_ns as f64;
        let _ = write!(
            text,
            "  a step by the clock outside: {:.1} us; {:.1} us ({percent:.2} %) of it are in no line; {} steps",
            us(self.step_ns),
            left / self.steps as f64 / 1e3,
            self.steps
        );
        text
    }
}

/// Writes the line of one kind; `us` is what a nanosecond of all steps is in microseconds of one.
fn line(text: &mut String, kind: &OperationTime, times: f64, (us, step_us, threads): (f64, f64, usize)) {
    let a_thread = |ns: u64| ns as f64 * us / threads as f64;
    let wall_us = kind.wall_ns as f64 * us;
    let rate = if kind.bytes > 0 { format!("{:.1}", kind.bytes as f64 / kind.wall_ns as f64) } else { String::new() };
    let _ = writeln!(
        text,
        "  {:<26} {times:>5.0} {wall_us:>10.1} {:>5.1}% {:>10.1} {:>7.1} {:>7.1} {:>8.1} {:>7.0} {rate:>7}",
        kind.name,
        100.0 * wall_us / step_us,
        a_thread(kind.busy_ns),
        a_thread(kind.late_ns),
        a_thread(kind.idle_ns),
        (kind.wall_ns - kind.shared_ns.min(kind.wall_ns)) as f64 * us,
        kind.pieces as f64 * us * 1e3,
    );
}

/// How much memory asked for huge pages, and how much of it got them.
pub(crate) fn huge_pages() -> String {
    let Ok(maps) = fs::read_to_string("/proc/self/smaps") else {
        return "huge pages: the system does not tell".to_owned();
    };
    let (mut asked, mut resident_kib, mut got_kib, mut resident, mut huge) = (0, 0, 0, 0, 0);
    for line in maps.lines() {
        let value = || line.split_whitespace().nth(1).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        if line.starts_with("Rss:") {
            resident = value();
        } else if line.starts_with("AnonHugePages:") || line.starts_with("FilePmdMapped:") {
            huge = value() + if line.starts_with("File") { huge } else { 0 };
        } else if line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "hg") {
            resident_kib += resident;
            got_kib += huge;
            asked += 1;
        }
    }
    let mib = |kib: u64| kib / 1024;
    format!(
        "huge pages: {asked} mappings asked for them, {} MiB of those are in memory, {} MiB ({:.1} %) on huge pages",
        mib(resident_kib),
        mib(got_kib),
        100.0 * got_kib as f64 / resident_kib.max(1) as f64
    )
}
