//! Every compute capability that is served: its limits, and the kernels that it has.

use super::*;
use crate::cuda::kernels::kernels_of;
use crate::cuda::launch::{Arg, Grid};
use cudarc::driver::sys::CUdevice_attribute;

/// Compute capabilities, with the shared memory that a block gets that asks for it. Source: CUDA
/// C++ Programming Guide 13.0, table of technical specifications. A100, RTX 3090, L4 and L40S and
/// RTX 4090, H100 and H200, B200, RTX 5090.
const SERVED: [((u16, u16), i32); 6] =
    [((8, 0), 166_912), ((8, 6), 101_376), ((8, 9), 101_376), ((9, 0), 232_448), ((10, 0), 232_448), ((12, 0), 101_376)];

#[test]
fn every_capability_opens_within_its_limits_and_computes() {
    for ((major, minor), shared_bytes) in SERVED {
        let shim = antiphon_cuda_shim::device();
        if shim.real() {
            return antiphon_cuda_shim::skipped("a driver's device is what it is");
        }
        shim.capability(major, minor);
        let bench = Bench::on(shim);
        let optin = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        assert_eq!(bench.device.context().attribute(optin).unwrap(), shared_bytes, "{major}.{minor}");
        rows::check_linear(&bench);
        rows::check_norm(&bench);
        rows::check_rotary(&bench);
        experts::check_routes(&bench);
        experts::check_sample(&bench);
        attention::check_sample(&bench);
        if (major, minor) == (9, 0) {
            prefill::check_linear(&bench);
        }
    }
}

#[test]
fn a_block_gets_no_more_shared_memory_than_its_device_has() {
    for ((major, minor), shared_bytes) in SERVED {
        let shim = antiphon_cuda_shim::device();
        if shim.real() {
            return antiphon_cuda_shim::skipped("a driver's device is what it is");
        }
        shim.capability(major, minor);
        let bench = Bench::on(shim);
        for (_, bytes) in kernels_of(bench.device.facts()) {
            assert!(bytes <= shared_bytes as usize, "{bytes} bytes on {major}.{minor}");
        }
    }
}

#[test]
#[should_panic(expected = "`arrange` takes 25 arguments; a launch passes at most 24")]
fn an_argument_too_many_is_never_dropped() {
    let bench = Bench::new();
    let grid = Grid { blocks: (1, 1), threads: 32, shared_bytes: 0 };
    // SAFETY: it panics before anything is launched.
    let launched = unsafe { bench.device.launch("arrange", grid, &[Arg::Int(0); 25]) };
    launched.unwrap();
}
