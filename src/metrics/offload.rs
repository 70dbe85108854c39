//! The families of blocks that are kept outside of KV memory.

use std::sync::Mutex;

use prometheus::IntGauge;

use super::maker::{CounterNames, Maker};
use super::{gauge, lock};
use crate::scheduler::SchedulerCounts;

/// What was stored, and what came back.
pub(super) struct OffloadFamilies {
    places: IntGauge,
    stored: IntGauge,
    spilled: CounterNames<1>,
    restored: CounterNames<1>,
    restored_tokens: CounterNames<1>,
    prompts: CounterNames<1>,
    declined: CounterNames<1>,
    failed: CounterNames<1>,
    dropped: CounterNames<1>,
    written_bytes: CounterNames<1>,
    read_bytes: CounterNames<1>,
    /// Held while the totals are counted.
    counting: Mutex<()>,
}

impl OffloadFamilies {
    pub(super) fn new(make: &Maker) -> Self {
        Self {
            places: make.gauge("antiphon_kv_store_places", "Blocks that the KV store takes; 0 without one."),
            stored: make.gauge("antiphon_kv_store_blocks", "Blocks that the KV store holds."),
            spilled: make.counts(["antiphon_kv_store_spilled_blocks_total"], "Blocks that were evicted into the KV store."),
            restored: make.counts(["antiphon_kv_store_restored_blocks_total"], "Blocks that came back from the KV store."),
            restored_tokens: make
                .counts(["antiphon_kv_store_restored_tokens_total"], "Tokens that were not computed for what came back."),
            prompts: make.counts(["antiphon_kv_store_hits_total"], "Sequences of which blocks came back from the KV store."),
            declined: make.counts(
                ["antiphon_kv_store_declined_total"],
                "Sequences that were computed although the KV store held their blocks, because that is faster.",
            ),
            failed: make.counts(
                ["antiphon_kv_store_failed_blocks_total"],
                "Blocks of the KV store that could not be read: damaged, or dropped before they were written.",
            ),
            dropped: make.counts(
                ["antiphon_kv_store_dropped_blocks_total"],
                "Blocks that were not written: too many waited, or the disk took no more.",
            ),
            written_bytes: make.counts(["antiphon_kv_store_written_bytes_total"], "Bytes written to the KV store."),
            read_bytes: make.counts(["antiphon_kv_store_read_bytes_total"], "Bytes read from the KV store."),
            counting: Mutex::new(()),
        }
    }

    pub(super) fn set(&self, scheduler: &SchedulerCounts) {
        let counts = &scheduler.offload;
        self.places.set(gauge(counts.places_count));
        self.stored.set(gauge(counts.stored_count));
        // The scheduler counts since the start; the counters take the difference.
        let _alone = lock(&self.counting);
        for (counter, total) in [
            (&self.spilled, counts.spilled_total),
            (&self.restored, counts.restored_total),
            (&self.restored_tokens, counts.restored_tokens_total),
            (&self.prompts, counts.hits_total),
            (&self.declined, counts.declined_total),
            (&self.failed, counts.failed_total),
            (&self.dropped, counts.dropped_total),
            (&self.written_bytes, counts.written_bytes_total),
            (&self.read_bytes, counts.read_bytes_total),
        ] {
            counter.add(total.saturating_sub(counter.get()));
        }
    }
}
