//! Makes metric families, and lets one number stand under several names.

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::ModelTags;

/// One count under several names.
pub(super) struct CounterNames<const N: usize>([IntCounter; N]);

impl<const N: usize> CounterNames<N> {
    pub(super) fn add(&self, count: u64) {
        self.0.iter().for_each(|counter| counter.inc_by(count));
    }

    pub(super) fn get(&self) -> u64 {
        self.0[0].get()
    }
}

/// One state under several names.
pub(super) struct Gauges<const N: usize>([Gauge; N]);

impl<const N: usize> Gauges<N> {
    pub(super) fn set(&self, value: f64) {
        self.0.iter().for_each(|gauge| gauge.set(value));
    }
}

/// One distribution under several names; those that end in `_ms` take a thousand times the value.
pub(super) struct HistogramNames {
    plain: Vec<Histogram>,
    millis: Vec<Histogram>,
}

impl HistogramNames {
    pub(super) fn observe(&self, value: f64) {
        self.plain.iter().for_each(|histogram| histogram.observe(value));
        self.millis.iter().for_each(|histogram| histogram.observe(value * 1e3));
    }

    pub(super) fn observe_micros(&self, micros: u64) {
        self.observe(micros as f64 / 1e6);
    }
}

/// Makes and registers families with the model's labels.
pub(super) struct Maker {
    registry: Registry,
    tags: HashMap<String, String>,
    vllm: HashMap<String, String>,
}

impl Maker {
    pub(super) fn new(tags: &ModelTags) -> Self {
        let own = [
            ("model_id", &tags.model_id),
            ("model_size", &tags.model_size),
            ("dtype", &tags.dtype),
            ("gpu_mode", &tags.gpu_mode),
            ("prompt_version", &tags.prompt_version),
        ];
        // vLLM's own labels: one model, one engine.
        let vllm = [("model_name".to_owned(), tags.model_id.clone()), ("engine".to_owned(), "0".to_owned())];
        Self {
            registry: Registry::new(),
            tags: own.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
            vllm: vllm.into_iter().collect(),
        }
    }

    pub(super) fn into_registry(self) -> Registry {
        self.registry
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        let labels = if name.starts_with("vllm:") { &self.vllm } else { &self.tags };
        Opts::new(name, help).const_labels(labels.clone())
    }

    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names, labels and buckets are constants of this room");
        self.registry.register(Box::new(collector.clone())).expect("every name is registered once");
        collector
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(self.opts(name, help)))
    }

    /// A counter with one label; `values` are there from the start, at zero.
    pub(super) fn labelled(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let made = self.register(IntCounterVec::new(self.opts(name, help), &[label]));
        for value in values {
            made.with_label_values(&[value]);
        }
        made
    }

    pub(super) fn counts<const N: usize>(&self, names: [&str; N], help: &str) -> CounterNames<N> {
        CounterNames(names.map(|name| self.counter(name, help)))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(self.opts(name, help)))
    }

    /// A gauge with one label; `values` are there from the start, at zero.
    pub(super) fn labelled_gauge(&self, name: &str, help: &str, label: &str, values: &[&str]) -> GaugeVec {
        let made = self.labelled_gauges(name, help, &[label]);
        for value in values {
            made.with_label_values(&[value]);
        }
        made
    }

    /// Gauges under several labels, none of them set yet.
    pub(super) fn labelled_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(self.opts(name, help), labels))
    }

    pub(super) fn gauges<const N: usize>(&self, names: [&str; N], help: &str) -> Gauges<N> {
        Gauges(names.map(|name| self.register(Gauge::with_opts(self.opts(name, help)))))
    }

    pub(super) fn spread(&self, names: &[&str], help: &str, buckets: &[f64]) -> HistogramNames {
        let histogram = |name: &str, factor: f64| {
            let buckets = buckets.iter().map(|bound| bound * factor).collect();
            self.register(Histogram::with_opts(HistogramOpts { common_opts: self.opts(name, help), buckets }))
        };
        let (millis, plain): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.ends_with("_ms"));
        HistogramNames {
            plain: plain.into_iter().map(|name| histogram(name, 1.0)).collect(),
            millis: millis.into_iter().map(|name| histogram(name, 1e3)).collect(),
        }
    }

    /// A gauge that is 1 for ever and says something by a label.
    pub(super) fn fact(&self, name: &str, help: &str, label: &str, value: &str) {
        self.register(IntGauge::with_opts(self.opts(name, help).const_label(label, value))).set(1);
    }
}
