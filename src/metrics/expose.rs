//! The text of `/metrics`.

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use super::{MetricsShared, Process, Stats, lock, process};
use crate::batch::Micros;

/// The content type of the exposition.
pub const EXPOSITION_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Which families to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// All, those too that other servers named against Prometheus's rules.
    #[default]
    All,
    /// Those that keep to Prometheus's rules for names: no colon, no abbreviated unit.
    Prometheus,
}

impl Names {
    fn show(self, family: &MetricFamily) -> bool {
        let name = family.name();
        match self {
            Self::All => true,
            Self::Prometheus => !name.contains(':') && !name.ends_with("_ms") && !name.ends_with("_sec"),
        }
    }
}

pub(super) fn text(inner: &MetricsShared, names: Names, now: Micros) -> String {
    let stats = Stats::read(inner, now);
    let families = &inner.families;
    families.steps.tokens_per_second.set(stats.tokens_per_second);
    families.gpus.set(stats.busy_share);
    families.prompts.hits_gauge.set(i64::try_from(stats.prompts.hits).unwrap_or(i64::MAX));
    families.prompts.hit_rate.set(stats.prompts.hit_rate);
    families.prompts.entries.set(i64::try_from(stats.prompts.entries).unwrap_or(i64::MAX));
    let mut gathered = {
        // Requests change under this lock, so their counts agree with each other.
        let _whole = lock(&inner.recent);
        let log_drops = &families.faults.log_drops;
        log_drops.inc_by(inner.log.dropped_total().saturating_sub(log_drops.get()));
        families.registry.gather()
    };
    gathered.extend(process::families(&Process::read()));
    gathered.retain(|family| names.show(family));
    TextEncoder::new().encode_to_string(&gathered).expect("gathered families have names and metrics, and text is UTF-8")
}
