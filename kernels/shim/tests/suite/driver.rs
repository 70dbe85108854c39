//! The stand-in driver keeps the rules that the real one has.

use antiphon_cuda_shim::{Fault, SCHEDULES, device, devices};
use cudarc::driver::sys::{CUstreamCaptureMode, CUstreamCaptureStatus};
use half::bf16;

use crate::samples::{Samples, close, factors, image, norm_wanted, product_wanted, values};

#[test]
fn a_captured_graph_runs_again_on_new_values() {
    let device = device();
    let samples = Samples::new(&device, image());
    let (stream, shape) = (&samples.stream, [4, 96]);
    let mut x = stream.alloc_zeros::<bf16>(4 * 96).expect("memory");
    let w = stream.clone_htod(&values(96, 2)).expect("a copy");
    let mut y = stream.alloc_zeros::<bf16>(4 * 96).expect("memory");
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture");
    samples.norm(&mut y, &x, &w, shape).expect("captured");
    assert_eq!(stream.capture_status().expect("a status"), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    // SAFETY: no flag is set.
    let graph = stream.end_capture(unsafe { std::mem::zeroed() }).expect("a graph").expect("not empty");
    assert_eq!(device.launches(), 0, "a capture runs nothing");
    stream.memcpy_htod(&values(4 * 96, 1), &mut x).expect("a copy");
    graph.launch().expect("a launch");
    let got = stream.clone_dtoh(&y).expect("a copy");
    assert!(close(&got, &norm_wanted(shape)));
    assert_eq!(device.launches_of("sample_norm"), 1);
}

#[test]
fn a_short_buffer_fails_the_launch_at_the_next_wait_and_for_ever() {
    let device = device();
    device.check(true);
    let samples = Samples::new(&device, image());
    let stream = &samples.stream;
    let a = stream.clone_htod(&factors(5 * 96, 1)).expect("a copy");
    let b = stream.clone_htod(&factors(64 * 96 - 8, 2)).expect("a copy");
    let mut c = stream.alloc_zeros::<bf16>(5 * 64).expect("memory");
    samples.product(&mut c, &a, &b, [5, 64, 96]).expect("launches are asynchronous");
    let error = stream.synchronize().expect_err("the error comes at the wait").to_string();
    assert!(error.contains("CUDA_ERROR_LAUNCH_FAILED") && error.contains("outside every allocation"), "{error}");
    assert!(stream.synchronize().is_err(), "the context is lost");
    assert!(stream.alloc_zeros::<bf16>(1).is_err(), "for every call");
}

#[test]
fn planted_faults_come_when_they_should() {
    let device = device();
    let samples = Samples::new(&device, image());
    device.fail_launch(2, Fault::Refused);
    let run = || samples.norm_once(&device, SCHEDULES[0], [2, 64]);
    assert!(run().is_ok());
    assert!(run().expect_err("the second").to_string().contains("a fault that the test planted"));
    assert!(run().is_ok(), "a refused launch leaves no trace");
    device.fail_allocation(1);
    assert!(run().expect_err("no memory").to_string().contains("OUT_OF_MEMORY"));
    assert!(run().is_ok());
    device.fail_launch(1, Fault::Kernel);
    assert!(run().is_err());
    assert!(run().expect_err("sticky").to_string().contains("ILLEGAL_ADDRESS"));
}

#[test]
fn memory_is_counted_and_runs_out() {
    let device = device();
    device.memory_bytes(64 << 20);
    let samples = Samples::new(&device, image());
    assert_eq!(samples.context.mem_get_info().expect("known"), (64 << 20, 64 << 20));
    let held = samples.stream.alloc_zeros::<u8>(40 << 20).expect("memory");
    assert_eq!(samples.context.mem_get_info().expect("known").0, 24 << 20);
    assert!(samples.stream.alloc_zeros::<u8>(25 << 20).expect_err("too much").to_string().contains("25165824 free"));
    drop(held);
    samples.stream.synchronize().expect("works");
    assert_eq!(device.memory_used(), 0);
}

#[test]
fn memory_begins_as_nan_and_pinned_memory_arrives_at_the_wait() {
    let device = device();
    let samples = Samples::new(&device, image());
    for length in [100, 6 << 20] {
        // SAFETY: what the memory holds is what this test looks at.
        let fresh = unsafe { samples.stream.alloc::<bf16>(length) }.expect("memory");
        // SAFETY: every bit pattern is a bf16.
        let mut host = unsafe { samples.context.alloc_pinned_with_flags::<bf16>(length, 0) }.expect("pinned memory");
        host.as_mut_slice().expect("host memory").fill(bf16::ZERO);
        samples.stream.memcpy_dtoh(&fresh, &mut host).expect("a copy");
        samples.stream.synchronize().expect("works");
        assert!(host.as_slice().expect("host memory").iter().all(|v| v.is_nan()));
    }
}

#[test]
fn devices_are_apart() {
    let two = devices(2);
    let samples: Vec<_> = two.iter().map(|device| Samples::new(device, image())).collect();
    two[0].fail_launch(1, Fault::Kernel);
    assert!(samples[0].norm_once(&two[0], SCHEDULES[0], [2, 64]).is_err());
    let got = samples[1].product_once(&two[1], SCHEDULES[0], [3, 64, 32]).expect("the other one works");
    assert!(close(&got, &product_wanted([3, 64, 32])));
}

#[test]
fn a_thread_that_ends_gives_its_fibers_stacks_back() {
    let device = device();
    // With the stacks of 32 threads a process has no mapping left.
    for _ in 0..40 {
        let run = || Samples::new(&device, image()).norm_once(&device, SCHEDULES[0], [2, 64]).map(drop);
        std::thread::scope(|scope| scope.spawn(run).join()).expect("it ran").expect("no error");
    }
}
