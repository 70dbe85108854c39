use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::*;

#[test]
fn every_index_is_computed_once() {
    for threads in [1, 2, 3, 8] {
        let mut pool = Pool::new(threads);
        for (items, grain) in [(0, 1), (1, 1), (7, 3), (64, 1), (1000, 7), (10, 0), (5, 100)] {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.run(items, grain, |range| range.for_each(|item| _ = counts[item].fetch_add(1, Ordering::Relaxed)));
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} threads, {items} by {grain}");
        }
    }
}

/// Jobs so short that helpers come late, leave late, and fall asleep in between.
#[test]
fn many_short_jobs_see_each_others_results() {
    let mut pool = Pool::new(4);
    let mut values = vec![0.0f32; 37];
    let rounds = 20_000;
    for round in 0..rounds {
        pool.for_rows(&mut values, 1, 1, |index, row| row[0] += index as f32);
        if round % 1000 == 0 {
            thread::sleep(Duration::from_micros(round / 20));
        }
    }
    let expected: Vec<f32> = (0..37).map(|index| (index * rounds) as f32).collect();
    assert_eq!(values, expected);
}

#[test]
fn a_thread_stuck_in_its_piece_leaves_the_others_to_the_rest() {
    let mut pool = Pool::new(3);
    // One piece blocks until all others are done: whichever thread claims it, the rest must claim
    // the others.
    let done = AtomicUsize::new(0);
    pool.run(100, 1, |range| {
        if range.start == 0 {
            while done.load(Ordering::Acquire) < 99 {
                yield_now();
            }
        } else {
            done.fetch_add(1, Ordering::Release);
        }
    });
    assert_eq!(done.into_inner(), 99);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let mut pool = Pool::new(4);
    for round in 0..200 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, 1, |range| assert!(range.start != round % 64, "piece {} failed", range.start));
        }));
        let message = caught.unwrap_err();
        let message = message.downcast_ref::<String>().unwrap();
        assert!(message.contains(&format!("piece {} failed", round % 64)), "{message}");
        let sum = AtomicUsize::new(0);
        pool.run(64, 1, |range| _ = sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed));
        assert_eq!(sum.into_inner(), 63 * 64 / 2);
    }
}

#[test]
fn one_thread_computes_inline() {
    let mut pool = Pool::new(1);
    let caller = thread::current().id();
    let called = AtomicBool::new(false);
    pool.run(10, 1, |range| {
        assert_eq!((range, thread::current().id()), (0..10, caller));
        called.store(true, Ordering::Relaxed);
    });
    assert!(called.into_inner());
}

#[test]
fn pools_come_and_go() {
    for round in 0..100 {
        let mut pool = Pool::new(1 + round % 4);
        if round % 3 == 0 {
            pool.run(8, 1, |_| {});
        }
    }
}

#[test]
fn outputs_are_stored_where_they_belong() {
    let mut pool = Pool::new(3);
    let mut values = vec![f32::NAN; 40];
    let outputs = Outputs::new(&mut values);
    pool.run(4, 1, |columns| {
        for column in columns {
            for at in (0..10).map(|row| row * 4 + column) {
                // SAFETY: every column is handed out once.
                unsafe { outputs.slice(at..at + 1).fill(at as f32) };
            }
        }
    });
    let expected: Vec<f32> = (0..40).map(|value| value as f32).collect();
    assert_eq!(values, expected);
}
