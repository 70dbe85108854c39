//! The GPUs that compute: which they are, what they hold, how busy they are.

use prometheus::GaugeVec;

use super::maker::Maker;

/// A GPU that the engine computes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number among the driver's devices.
    pub index: usize,
    /// What its driver calls it.
    pub name: String,
    /// Bytes of its memory that the engine takes when it is made and keeps: weights, KV, scratch.
    pub used_bytes: u64,
}

/// A series for each GPU, or one called `none`: a dashboard finds the names on a CPU too.
pub(super) struct GpuFamilies {
    utilization: GaugeVec,
    indices: Vec<String>,
}

impl GpuFamilies {
    pub(super) fn new(make: &Maker, gpus: &[Gpu]) -> Self {
        let indices: Vec<String> = gpus.iter().map(|gpu| gpu.index.to_string()).collect();
        let labels: Vec<&str> = if gpus.is_empty() { vec!["none"] } else { indices.iter().map(String::as_str).collect() };
        let utilization = make.labelled_gauge(
            "gpu_utilization",
            "Share of the last ten seconds in which the engine computed on the GPU, 0 to 1; none is a CPU.",
            "gpu",
            &labels,
        );
        let help = "GPU memory that the engine holds; none is a CPU.";
        let used_bytes = make.labelled_gauge("gpu_mem_used_bytes", help, "gpu", &labels);
        for (index, gpu) in indices.iter().zip(gpus) {
            used_bytes.with_label_values(&[index]).set(gpu.used_bytes as f64);
        }
        Self { utilization, indices }
    }

    /// All GPUs compute a step together, so one share is that of each.
    pub(super) fn set(&self, busy_share: f64) {
        for index in &self.indices {
            self.utilization.with_label_values(&[index]).set(busy_share);
        }
    }
}
