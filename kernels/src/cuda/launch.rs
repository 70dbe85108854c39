//! Launches of kernels: their arguments and grids.

use super::device::Device;
use super::error::CudaError;
use super::memory::{Element, Region};
use cudarc::driver::{result, sys};
use std::ffi::c_void;

/// One argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    Address(u64),
    Int(i32),
    Real(f32),
    Map(sys::CUtensorMap),
}

impl<T: Element> From<&Region<T>> for Arg {
    fn from(region: &Region<T>) -> Self {
        Self::Address(region.address())
    }
}

impl<T: Element> From<Option<&Region<T>>> for Arg {
    fn from(region: Option<&Region<T>>) -> Self {
        Self::Address(region.map_or(0, Region::address))
    }
}

impl From<usize> for Arg {
    fn from(count: usize) -> Self {
        Self::Int(i32::try_from(count).expect("no count of a step or a shape comes near 2^31"))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Real(value)
    }
}

/// Arguments of a kernel at most; their addresses stand on the stack, so that a launch allocates
/// nothing.
const ARGS_MAX: usize = 24;

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: (usize, usize),
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
}

impl Device {
    /// Queues a kernel.
    ///
    /// # Safety
    /// `args` are the kernel's parameters in number, order and kind, and what it reads and writes
    /// lies within their regions.
    pub(super) unsafe fn launch(&self, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), CudaError> {
        let dimension = |count: usize| u32::try_from(count).expect("no grid comes near 2^32 blocks");
        let mut pointers = [std::ptr::null_mut(); ARGS_MAX];
        assert!(args.len() <= ARGS_MAX, "`{name}` takes {} arguments; a launch passes at most {ARGS_MAX}", args.len());
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = match arg {
                Arg::Address(address) => std::ptr::from_ref(address).cast_mut().cast::<c_void>(),
                Arg::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Real(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Map(map) => std::ptr::from_ref(map).cast_mut().cast(),
            };
        }
        let blocks = (dimension(grid.blocks.0), dimension(grid.blocks.1), 1);
        let threads = (dimension(grid.threads), 1, 1);
        let function = self.kernel(name);
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        unsafe {
            result::launch_kernel(function, blocks, threads, dimension(grid.shared_bytes), self.compute_stream(), &mut pointers)
        }
        .map_err(CudaError::driver("launching a kernel"))
    }
}
