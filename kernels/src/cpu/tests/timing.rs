use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::weights::Bf16Matrix;

static NOW_NS: AtomicU64 = AtomicU64::new(0);

/// A clock that goes on by one at every look, so that nothing takes no time.
fn tick() -> u64 {
    NOW_NS.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn operations_are_timed_one_after_the_other_and_their_work_is_whole() {
    let bytes = Numbers(4).bf16(512 * 512);
    let mut cpu = Cpu::new(3);
    let weight = cpu.pack(&[Bf16Matrix::new(&bytes, 512, 512).unwrap()], Format::Bf16);
    let (x, mut out) = (vec![1.0; 512], vec![0.0; 512]);
    assert!(cpu.take_timing().is_empty(), "nothing was timed");
    cpu.begin_operation("nothing", 1);
    let begun_ns = tick();
    cpu.start_timing(tick);
    cpu.begin_operation("map", weight.bytes());
    cpu.linear(&x, &weight, None, &mut out);
    cpu.begin_operation("norm", 0);
    cpu.rms_norm(&x, &x, 1e-5, &mut out);
    let times = cpu.take_timing();
    let wall_ns = tick() - begun_ns;
    let names: Vec<_> = times.iter().map(|time| (time.name, time.bytes, time.shares)).collect();
    assert_eq!(names, [("checks", 0, 0), ("map", weight.bytes(), 1), ("norm", 0, 0)]);
    assert!(times.iter().all(|time| time.wall_ns > 0));
    assert!(times.iter().map(|time| time.wall_ns).sum::<u64>() < wall_ns);
    let map = &times[1];
    assert_eq!(map.pieces, 512 / 32 / 4, "four bands of 512 values a piece");
    assert!(map.busy_ns >= 4 && map.shared_ns < map.wall_ns, "{map:?}");
    // Each thread computes, or has not begun, or waits, or looks for its next piece.
    assert!(map.busy_ns + map.late_ns + map.idle_ns <= 3 * map.shared_ns, "{map:?}");
    assert!(cpu.take_timing().is_empty(), "nothing is timed any more");
}

#[test]
fn what_is_timed_has_the_same_bits() {
    let bytes = Numbers(5).bf16(300 * 200);
    let x = Numbers(6).values(7 * 200);
    let mut cpu = Cpu::new(2);
    let weight = cpu.pack(&[Bf16Matrix::new(&bytes, 300, 200).unwrap()], Format::Bf16);
    let mut compute = |times: bool| {
        if times {
            cpu.start_timing(tick);
        }
        let mut out = vec![0.0; 7 * 300];
        cpu.linear(&x, &weight, None, &mut out);
        bits(&out)
    };
    assert_eq!(compute(false), compute(true));
}
