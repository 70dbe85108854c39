//! Pinned memory and copies under way. The shim copies when something waits, so that a host that
//! does not wait is always too early.

use super::*;

const LEN: usize = 1000;

fn pinned(bench: &Bench, value: u32) -> Pinned<u32> {
    let mut pinned = Pinned::new(&bench.device, LEN).unwrap();
    pinned.as_mut_slice().fill(value);
    pinned
}

#[test]
fn what_is_copied_back_is_there_when_it_is_read() {
    let bench = Bench::new();
    let (region, mut host) = (bench.put(&[7_u32; LEN]), pinned(&bench, 0));
    bench.device.download(&region, &mut host).unwrap();
    assert_eq!(host.as_slice(), [7; LEN]);
    bench.device.download(&bench.put(&[8_u32; LEN]), &mut host).unwrap();
    // An upload from there leaves it to be waited for.
    bench.device.upload(Queue::Compute, &host, &region, LEN).unwrap();
    assert_eq!(host.as_slice(), [8; LEN]);
}

#[test]
fn what_is_copied_out_is_what_it_was_then() {
    let bench = Bench::new();
    for queue in [Queue::Compute, Queue::Copies] {
        let (region, mut host) = (bench.put(&[0_u32; LEN]), pinned(&bench, 7));
        bench.device.upload(queue, &host, &region, LEN).unwrap();
        host.as_mut_slice().fill(9);
        assert_eq!(bench.device.fetch(&region).unwrap(), [7; LEN], "{queue:?}");
    }
}

/// The end of the later copy says nothing of the earlier one, which another queue has.
#[test]
fn copies_of_both_queues_are_waited_for() {
    let bench = Bench::new();
    let (first, second, mut host) = (bench.put(&[0_u32; LEN]), bench.put(&[0_u32; LEN]), pinned(&bench, 7));
    bench.device.upload(Queue::Copies, &host, &first, LEN).unwrap();
    bench.device.upload(Queue::Compute, &host, &second, LEN).unwrap();
    host.as_mut_slice().fill(9);
    bench.device.synchronize_copies().unwrap();
    assert_eq!(bench.device.fetch(&first).unwrap(), [7; LEN]);
    assert_eq!(bench.device.fetch(&second).unwrap(), [7; LEN]);
}

/// Memory that is given back under a copy would be read after it is gone.
#[test]
fn what_is_dropped_is_copied_before() {
    let bench = Bench::new();
    for queue in [Queue::Compute, Queue::Copies] {
        let (region, host) = (bench.put(&[0_u32; LEN]), pinned(&bench, 7));
        bench.device.upload(queue, &host, &region, LEN).unwrap();
        drop(host);
        // What takes its place in memory.
        let next = pinned(&bench, 9);
        assert_eq!(bench.device.fetch(&region).unwrap(), [7; LEN], "{queue:?}");
        drop(next);
    }
}

#[test]
#[should_panic(expected = "a copy of pinned memory cannot be captured")]
fn a_copy_cannot_be_captured() {
    let bench = Bench::new();
    let (region, host) = (bench.put(&[0_u32; LEN]), pinned(&bench, 7));
    let _ = bench.device.capture(|| bench.device.upload(Queue::Compute, &host, &region, LEN));
}
