//! Why a model cannot be served on a CUDA device.

use crate::engine::checkpoint::CheckpointError;
use antiphon_kernels::cuda::CudaError;

/// What keeps an engine from being made; each says what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaEngineError {
    /// The device cannot be used, or failed while it was being filled.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// The checkpoint changed while it was read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A size that no kernel is made for.
    #[error("{what} is {got}, and the CUDA kernels serve at most {most}; --device cpu serves it")]
    Shape {
        /// Which size.
        what: &'static str,
        /// Its value.
        got: usize,
        /// The largest that is served.
        most: usize,
    },
    /// An MXFP4 scale that the kernels do not widen.
    #[error("{tensor} has a scale of {got}, and the CUDA kernels widen at most {most} (2^{}); --device cpu serves it", i32::from(*.most) - 127)]
    Scale {
        /// The tensor.
        tensor: String,
        /// The scale, as E8M0.
        got: u8,
        /// The largest that is widened.
        most: u8,
    },
    /// Experts that are not quantised, and no MXFP4 values.
    #[error(
        "{tensor} is bf16 and holds values that MXFP4 does not, which the CUDA kernels multiply experts in; nothing is rounded in silence: \
         --device cpu serves it as it is"
    )]
    Experts {
        /// The tensor.
        tensor: String,
    },
    /// A weight that f16 does not hold.
    #[error("{tensor} has a weight of {got}, and the CUDA kernels keep it in f16, at most 65,504; --device cpu serves it")]
    Weight {
        /// The tensor.
        tensor: String,
        /// The weight.
        got: f32,
    },
    /// The device has not the instructions that were asked for.
    #[error(
        "--cuda-prefill wgmma needs a GPU of compute capability 9.0 (Hopper), and {device} has {}.{}; --cuda-prefill mma serves it",
        .capability.0, .capability.1
    )]
    Wgmma {
        /// What its maker calls the device.
        device: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// There are not so many devices.
    #[error("{ranks} devices are needed, from {first} on, but the driver sees {count}")]
    Devices {
        /// How many were asked for.
        ranks: usize,
        /// The first one.
        first: usize,
        /// How many there are.
        count: usize,
    },
    /// The model has no equal part for each rank.
    #[error(
        "the model has {count} {what}, which {ranks} devices cannot share equally; expected a number that \
         divides {heads} key and value heads and {experts} experts"
    )]
    Ranks {
        /// How many were asked for.
        ranks: usize,
        /// What they cannot share.
        what: &'static str,
        /// How many of them there are.
        count: usize,
        /// Key and value heads.
        heads: usize,
        /// Experts.
        experts: usize,
    },
    /// The plan does not fit the device.
    #[error(
        "the model takes {needed_bytes} bytes of the device ({parts}), but {budget_bytes} may be used \
         ({free_bytes} of {total_bytes} are free, --gpu-memory-utilization {utilization}); \
         a larger --gpu-memory-utilization or smaller --token-budget-tokens and --running-max-count help, or --device cpu"
    )]
    Memory {
        /// What the least plan takes.
        needed_bytes: u64,
        /// By what for.
        parts: String,
        /// What may be used.
        budget_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What the device has.
        total_bytes: u64,
        /// The share that was asked for.
        utilization: f64,
    },
}
