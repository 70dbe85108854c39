//! Bugs planted in the sample kernels, and what finds them: a schedule whose result differs, a
//! failed launch, or the checker.

use antiphon_cuda_shim::{Planted, SCHEDULES, device, load_library};
use half::bf16;

use crate::samples::{Samples, close, folder, norm_wanted, product_wanted};

/// What noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    plain: bool,
    checked: bool,
}

const NORM: [usize; 2] = [2, 300];
const PRODUCT: [usize; 3] = [70, 128, 128];

fn look(bug: Planted) -> Found {
    let image = load_library(bug.name, &folder(), Some(bug));
    let wrong = |checked: bool| {
        SCHEDULES.into_iter().any(|schedule| {
            // A failed launch leaves its device failed, as on silicon: a new one for each schedule.
            let device = device();
            device.check(checked);
            let samples = Samples::new(&device, image.clone());
            let norm = bug.file == "norm.cu";
            let (result, wanted) = if norm {
                (samples.norm_once(&device, schedule, NORM), norm_wanted(NORM))
            } else {
                (samples.product_once(&device, schedule, PRODUCT), product_wanted(PRODUCT))
            };
            let right = result.as_ref().is_ok_and(|got: &Vec<bf16>| close(got, &wanted));
            !right || device.races() > 0
        })
    };
    Found { plain: wrong(false), checked: wrong(true) }
}

const BOTH: Found = Found { plain: true, checked: true };
const CHECKER: Found = Found { plain: false, checked: true };

#[test]
fn a_missing_barrier_is_found() {
    let from = "__syncthreads();  // the sums are there";
    assert_eq!(look(Planted { name: "norm-no-barrier", file: "norm.cu", from, to: "" }), BOTH);
}

#[test]
fn a_tile_overwritten_too_early_is_found() {
    let from = "__syncthreads();  // the tiles are read no more";
    assert_eq!(look(Planted { name: "product-no-barrier", file: "product.cu", from, to: "" }), BOTH);
}

#[test]
fn a_wrong_wait_count_is_found() {
    let bug = Planted { name: "product-wait", file: "product.cu", from: "cp_async_wait<1>()", to: "cp_async_wait<2>()" };
    assert_eq!(look(bug), BOTH);
}

#[test]
fn a_forgotten_wait_is_found() {
    let bug = Planted { name: "product-no-wait", file: "product.cu", from: "cp_async_wait<0>()", to: "" };
    assert_eq!(look(bug), BOTH);
}

#[test]
fn a_read_past_the_end_is_found() {
    let from = "const bool ok = row0 + r < m;";
    let bug = Planted { name: "product-bound", file: "product.cu", from, to: "const bool ok = row0 + r < m + 100;" };
    assert_eq!(look(bug), CHECKER);
}

#[test]
fn an_off_by_one_write_is_found() {
    let bug = Planted {
        name: "norm-one-more",
        file: "norm.cu",
        from: "i < columns; i += blockDim.x) {",
        to: "i <= columns; i += blockDim.x) {",
    };
    // Without the checker it is seen only where the row that it spoils is done already.
    assert_eq!(look(bug), BOTH);
}

#[test]
fn a_barrier_that_one_warp_skips_is_found() {
    let from = "__syncthreads();  // the factor is there";
    assert_eq!(look(Planted { name: "norm-skipped", file: "norm.cu", from, to: "if (warp != 7) __syncthreads();" }), BOTH);
}

#[test]
fn a_lane_that_leaves_before_a_shuffle_is_found() {
    let bug = Planted {
        name: "norm-leaves",
        file: "norm.cu",
        from: "float sum = 0.0f;",
        to: "float sum = 0.0f; if (lane > 20) return;",
    };
    assert_eq!(look(bug), BOTH);
}

#[test]
fn a_misaligned_access_is_found() {
    let from = "c + (size_t)r * n + at) =";
    assert_eq!(
        look(Planted { name: "product-misaligned", file: "product.cu", from, to: "c + (size_t)r * n + at + 1) =" }),
        BOTH
    );
}
