//! Bugs planted in the project's kernels, one text changed each. The checks of the other files must
//! find them, so these tests say what the checks are worth: each bug is found in the way that is
//! written beside it.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the check says when it finds the bug.
const RACE: &str = " race";
const OUTSIDE: &str = "outside every allocation";
const SCHEDULE: &str = "changes the result";
const REFERENCE: &str = "expected";

/// Runs a check on kernels with a bug; it must fail, and say one of `words`.
fn find(check: fn(&Bench), bug: Planted, words: &[&str]) {
    let bench = Bench::planted(bug);
    if bench.shim.real() {
        return antiphon_cuda_shim::skipped("nothing is planted in a driver");
    }
    let checked = catch_unwind(AssertUnwindSafe(|| check(&bench)));
    let panic = checked.err().unwrap_or_else(|| panic!("{}: not noticed", bug.name));
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    let said = format!("{text}; {}", bench.shim.message());
    assert!(words.iter().any(|word| said.contains(word)), "{}: {said}", bug.name);
}

macro_rules! bugs {
    ($($name:ident: $check:expr, $file:literal, $from:literal => $to:literal, $says:expr;)*) => {$(
        #[test]
        fn $name() {
            find($check, Planted { name: stringify!($name), file: $file, from: $from, to: $to }, &$says);
        }
    )*};
}

bugs! {
    // Warps read the parts of warps that have not written them.
    a_missing_barrier_in_linear: rows::check_linear, "linear.cu",
        "(sums, acc, warp, lane);\n    __syncthreads();" => "(sums, acc, warp, lane);", [RACE, SCHEDULE, REFERENCE];
    a_missing_barrier_in_a_norm: rows::check_norm, "rows.cu",
        "] = squares;\n    __syncthreads();" => "] = squares;", [RACE, SCHEDULE, REFERENCE];
    a_missing_barrier_in_the_experts: experts::check_sample, "experts.cu",
        "__syncthreads();\n    for (int i = threadIdx.x; i < 16 *" => "for (int i = threadIdx.x; i < 16 *", [RACE, SCHEDULE, REFERENCE];
    // The next tile is copied over one that a slower warp still reads.
    a_missing_barrier_between_tiles_of_attention: attention::check_sample, "attention.cu",
        "+ Tile::TILE, lane);\n        __syncthreads();" => "+ Tile::TILE, lane);", [RACE, SCHEDULE, REFERENCE];
    a_missing_barrier_in_the_groups: experts::check_routes, "route.cu",
        "        *tile_count = tile;\n    }\n    __syncthreads();" => "        *tile_count = tile;\n    }", [RACE, SCHEDULE, REFERENCE];
    a_wrong_wait_count_in_attention: attention::check_sample, "attention.cu",
        "cp_async_wait<1>()" => "cp_async_wait<2>()", [RACE, SCHEDULE, REFERENCE, "never waited for"];
    // Rows past the last token belong to no sequence: only the checker sees that they are read.
    a_read_past_the_tokens_of_linear: rows::check_linear, "linear.cu",
        "min(first_token + 8 * n + (lane >> 2), tokens - 1)" => "first_token + 8 * n + (lane >> 2)", [OUTSIDE];
    a_read_past_the_router: experts::check_routes, "route.cu",
        "expert < expert_count; expert += ROUTE_WARPS" => "expert <= expert_count; expert += ROUTE_WARPS", [OUTSIDE, RACE];
    an_off_by_one_in_the_values_stored: rows::check_rotary, "rope.cu",
        "i < kv_heads * head_dim;" => "i <= kv_heads * head_dim;", [RACE, REFERENCE, OUTSIDE];
    an_off_by_one_in_an_experts_tile: experts::check_sample, "experts.cu",
        "row >= hidden || token >= tile.count" => "row >= hidden || token > tile.count", [RACE, SCHEDULE, REFERENCE, OUTSIDE];
    an_off_by_one_in_the_window: attention::check_window, "attention.cu",
        "max(0, to[side] - item.window)" => "max(0, to[side] - item.window - 1)", [REFERENCE];
    // wgmma and TMA: what must be waited for, in which phase, and where copies go.
    a_wrong_parity_of_a_full_stage: prefill::check_linear, "prefill.cuh",
        "next / PREFILL_STAGES & 1)" => "next / PREFILL_STAGES + 1 & 1)", [SCHEDULE, REFERENCE, RACE, "deadlock"];
    a_stage_filled_while_it_is_read: prefill::check_linear, "prefill.cuh",
        "if (round > 0) mbarrier_wait" => "if (round < 0) mbarrier_wait", [SCHEDULE, REFERENCE, RACE, "more arrive at an mbarrier"];
    a_stage_given_back_by_every_lane: prefill::check_linear, "prefill.cuh",
        "if (lane == 0) mbarrier_arrive" => "mbarrier_arrive", [SCHEDULE, REFERENCE, RACE, "more arrive at an mbarrier", "deadlock"];
    bytes_that_nobody_announced: prefill::check_linear, "prefill.cuh",
        "::TOKEN_BYTES + PREFILL_ROW_TILES *" => "::TOKEN_BYTES + (PREFILL_ROW_TILES - 1) *", [SCHEDULE, REFERENCE, RACE, "deadlock"];
    // A wait that never ends ends the launch, and says where it stood; on silicon `mbarrier_wait`
    // traps after MBARRIER_WAIT_NS.
    bytes_that_never_come: prefill::check_linear, "prefill.cuh",
        "mbarrier_arrive_expect(full, Ring" => "mbarrier_arrive_expect(full, 16 + Ring", ["threads wait for ever; thread 0 at an mbarrier"];
    a_wrong_wait_count_of_products: prefill::check_linear, "prefill.cuh",
        "wgmma_wait<0>(sums.part);\n        keep_fragments(even" => "wgmma_wait<1>(sums.part);\n        keep_fragments(even",
        [SCHEDULE, REFERENCE, "never waited for"];
    products_that_are_not_committed: prefill::check_linear, "prefill.cuh",
        "    wgmma_commit();\n" => "", [SCHEDULE, REFERENCE, "never waited for"];
    products_without_a_fence: prefill::check_linear, "prefill.cuh",
        "    wgmma_fence();\n" => "", ["no wgmma.fence"];
    barriers_that_are_not_shown_to_copies: prefill::check_linear, "prefill.cuh",
        "            mbarrier_fence_init();\n" => "", ["no fence shows"];
    a_box_beyond_the_ring: prefill::check_linear, "prefill.cuh",
        "copy_box(ring.tokens(slot), x" => "copy_box(ring.tokens(slot + 2), x", [OUTSIDE];
    a_box_of_the_wrong_columns: prefill::check_linear, "prefill.cuh",
        "stage * STAGE_K, first_token, full" => "stage * STAGE_K + 8, first_token, full", [REFERENCE];
    // The weights of tiles that the matrix does not have: only the checker sees that they are read.
    a_read_past_the_tiles: prefill::check_linear, "prefill.cuh",
        "min(first_tile + i, tile_count - 1)" => "first_tile + i", [OUTSIDE];
    // The sums are right, and in another order.
    a_part_of_k_that_is_too_long: prefill::check_linear, "prefill.cuh",
        "return part_begin(steps, 1); }" => "return part_begin(steps, 1) + 1; }", [REFERENCE];
    // Rows of another expert are multiplied by this one's weights.
    a_box_of_another_expert_s_tokens: prefill::check_experts, "experts_wgmma.cu",
        "row_tiles, tile.first);\n        return false;" => "row_tiles, 0);\n        return false;", [REFERENCE, SCHEDULE, RACE];
    an_off_by_one_in_a_wgmma_tile: prefill::check_experts, "experts_wgmma.cu",
        "if (token >= tile.count) continue;\n            out[" => "if (token > tile.count) continue;\n            out[", [RACE, SCHEDULE, REFERENCE, OUTSIDE];
    scales_of_the_other_block: prefill::check_experts, "experts_wgmma.cu",
        "tile_scales}, unit, first" => "tile_scales}, 1 - unit, first", [REFERENCE];
    // A pair counts itself among those before it.
    an_off_by_one_in_the_groups: experts::check_routes, "route.cu",
        "(1u << lane) - 1u" => "(2u << lane) - 1u", [RACE, SCHEDULE, REFERENCE, "left"];
}
