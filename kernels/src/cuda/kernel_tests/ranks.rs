//! Several devices together: gathering, captured and not, and what happens when a rank fails. Each
//! rank has a thread, as in the engine: a rank that gathers waits for the others.

use super::*;
use std::thread;

/// Each rank's device, and what connects it.
type Ranks = Vec<(Device, Communicator)>;

/// `count` devices and what connects them; `None` on a machine of too few, or without NCCL.
fn connected(count: usize) -> Option<(Vec<antiphon_cuda_shim::Device>, Ranks)> {
    let enough = || nccl_version().is_ok() && probe().is_ok_and(|cuda| cuda.devices.len() >= count);
    if antiphon_cuda_shim::on_the_driver() && !enough() {
        antiphon_cuda_shim::skipped(format_args!("this machine has not {count} devices and NCCL"));
        return None;
    }
    let shims = antiphon_cuda_shim::devices(count);
    let devices: Vec<Device> = shims.iter().map(|shim| Device::open(shim.ordinal()).unwrap()).collect();
    let communicators = Communicator::connect(&devices.iter().collect::<Vec<_>>()).unwrap();
    Some((shims, devices.into_iter().zip(communicators).collect()))
}

/// What every rank's `work` gives, one thread a rank.
fn on_each<T: Send>(ranks: &[(Device, Communicator)], work: impl Fn(&Device, &Communicator) -> T + Sync) -> Vec<T> {
    let run = |(device, communicator): &(Device, Communicator)| {
        device.bind().unwrap();
        work(device, communicator)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(|| run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn room(device: &Device, len: usize) -> Region<f32> {
    Arena::new(device, "a test", region_bytes::<f32>(len)).unwrap().take(len)
}

/// A rank's part of `len` values, in a round.
fn part(rank: usize, len: usize, round: usize) -> Vec<f32> {
    numbers(len, (1 + rank + 10 * round) as u64)
}

#[test]
fn every_rank_gets_every_part() {
    for (count, len) in [(2, 1), (2, 96), (3, 1000)] {
        let Some((_shims, ranks)) = connected(count) else { return };
        for round in 0..2 {
            let expected: Vec<f32> = (0..count).flat_map(|rank| part(rank, len, round)).collect();
            let got = on_each(&ranks, |device, communicator| {
                let (parts, rank) = (room(device, count * len), communicator.rank());
                device.store(&part(rank, len, round), &parts.slice(rank * len..(rank + 1) * len)).unwrap();
                communicator.all_gather(device, &parts).unwrap();
                device.fetch(&parts).unwrap()
            });
            assert!(got.iter().all(|parts| *parts == expected), "{count} ranks of {len}");
        }
    }
}

#[test]
fn a_captured_gather_is_replayed_on_new_values() {
    let Some((_shims, ranks)) = connected(2) else { return };
    let len = 40;
    let got = on_each(&ranks, |device, communicator| {
        let (parts, rank) = (room(device, 2 * len), communicator.rank());
        let graph = device
            .capture(|| {
                communicator.all_gather(device, &parts)?;
                communicator.all_gather(device, &parts)
            })
            .unwrap();
        let rounds = [3, 4].map(|round| {
            device.store(&part(rank, len, round), &parts.slice(rank * len..(rank + 1) * len)).unwrap();
            graph.launch().unwrap();
            device.fetch(&parts).unwrap()
        });
        rounds.concat()
    });
    let expected: Vec<f32> = [3, 4].iter().flat_map(|round| [part(0, len, *round), part(1, len, *round)].concat()).collect();
    assert!(got.iter().all(|parts| *parts == expected));
}

#[test]
fn ranks_that_gather_different_amounts_are_found() {
    let Some((shims, ranks)) = connected(2) else { return };
    if shims[0].real() {
        return antiphon_cuda_shim::skipped("only the stand-in compares what ranks gather");
    }
    let errors = on_each(&ranks, |device, communicator| {
        let parts = room(device, 80 + 2 * communicator.rank());
        communicator.all_gather(device, &parts).unwrap();
        device.synchronize().unwrap_err().to_string()
    });
    for error in errors {
        assert!(error.contains("rank 1 gathers 41 of type 7, rank 0 40 of type 7"), "{error}");
    }
}

#[test]
fn an_abort_frees_who_waits_and_parts_the_group() {
    let Some((_shims, ranks)) = connected(2) else { return };
    let parts: Vec<Region<f32>> = ranks.iter().map(|(device, _)| room(device, 8)).collect();
    let (device, communicator) = &ranks[1];
    device.bind().unwrap();
    let graph = device.capture(|| communicator.all_gather(device, &parts[1])).unwrap();
    graph.launch().unwrap();
    thread::scope(|scope| {
        // Rank 0 never comes. Rank 1 waits, and its abort waits for its graph.
        let waiting = scope.spawn(move || {
            device.bind().unwrap();
            let waited = device.synchronize();
            drop(graph);
            waited
        });
        for (_, communicator) in &ranks {
            scope.spawn(|| communicator.abort());
        }
        waiting.join().unwrap().unwrap();
    });
    for ((device, communicator), parts) in ranks.iter().zip(&parts) {
        let error = communicator.all_gather(device, parts).unwrap_err().to_string();
        assert_eq!(error, "NCCL failed in gathering: the group was aborted when another rank failed");
    }
}

#[test]
fn a_device_is_not_two_ranks() {
    let Some((_shims, ranks)) = connected(1) else { return };
    let (device, _) = &ranks[0];
    let error = Communicator::connect(&[device, device]).unwrap_err().to_string();
    assert!(error.starts_with("NCCL failed in connecting the devices: "), "{error}");
}
