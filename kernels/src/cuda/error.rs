//! What a CUDA device can refuse.

use super::code::CodeError;
use super::probe::NoCuda;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// Why a device cannot be used, or what it could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no such device.
    #[error(transparent)]
    None(#[from] NoCuda),
    /// The driver refused a call, or reported the failure of an earlier one.
    #[error("the CUDA driver failed in {call}: {message}{}", if *.is_sticky { "; the device is lost to this process, which must be started anew" } else { "" })]
    Driver {
        /// What was asked.
        call: &'static str,
        /// What the driver said.
        message: String,
        /// Whether every later call of this process will fail too.
        is_sticky: bool,
    },
    /// There is no code for it.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// Several devices cannot compute together.
    #[error(
        "NCCL is missing, which several GPUs need to compute together; tried {tried}. Install it (Debian and Ubuntu: libnccl2; \
         pip: nvidia-nccl-cu13, whose folder nvidia/nccl/lib then belongs in LD_LIBRARY_PATH)"
    )]
    NoNccl {
        /// The names, each with what the loader said.
        tried: String,
    },
    /// NCCL refused a call.
    #[error("NCCL failed in {call}: {message}")]
    Nccl {
        /// What was asked.
        call: &'static str,
        /// What it said.
        message: String,
    },
    /// The device's memory does not hold what was asked for.
    #[error("{what} takes {bytes} bytes of device memory, but {free_bytes} are free")]
    Memory {
        /// What for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that the device had.
        free_bytes: usize,
    },
}

/// Errors after which CUDA promises nothing in this process (CUDA driver API, "cuCtx" and the
/// entries of `CUresult`).
const STICKY: [CUresult; 17] = [
    CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    CUresult::CUDA_ERROR_LAUNCH_FAILED,
    CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
    CUresult::CUDA_ERROR_ASSERT,
    CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
    CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
    CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
    CUresult::CUDA_ERROR_INVALID_PC,
    CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
    CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
    CUresult::CUDA_ERROR_CONTAINED,
    CUresult::CUDA_ERROR_EXTERNAL_DEVICE,
    CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK,
    CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUresult::CUDA_ERROR_DEINITIALIZED,
    // What the driver says after an Xid: it does not know itself what is left.
    CUresult::CUDA_ERROR_UNKNOWN,
];

impl CudaError {
    /// The driver's error from `call`.
    pub(super) fn driver(call: &'static str) -> impl Fn(DriverError) -> Self {
        move |error| Self::Driver { call, message: error.to_string(), is_sticky: STICKY.contains(&error.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves the device in a known state loses a step; everything after which only a new
    /// process serves says so.
    #[test]
    fn errors_that_lose_the_device_are_told_from_those_that_lose_a_step() {
        use CUresult as Of;
        let is_sticky = |code| CudaError::driver("a call")(DriverError(code)).to_string().contains("started anew");
        for code in [
            Of::CUDA_ERROR_UNKNOWN,
            Of::CUDA_ERROR_NVLINK_UNCORRECTABLE,
            Of::CUDA_ERROR_CONTAINED,
            Of::CUDA_ERROR_EXTERNAL_DEVICE,
            Of::CUDA_ERROR_LAUNCH_FAILED,
        ] {
            assert!(is_sticky(code), "{code:?}");
        }
        for code in [Of::CUDA_ERROR_OUT_OF_MEMORY, Of::CUDA_ERROR_INVALID_VALUE, Of::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES] {
            assert!(!is_sticky(code), "{code:?}");
        }
    }
}
