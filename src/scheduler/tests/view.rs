//! What watchers see is what the core holds.

use super::*;

const SIZE: ViewSize = ViewSize { running_max_count: 8, waiting_max_count: 8, cells_max_count: 64 };

/// How many blocks of a map are in use, and how many cells of it each of `count` sequences holds.
fn held(map: &BlockMap, count: usize) -> (usize, Vec<usize>) {
    let cells = |holder| map.cells.iter().filter(|cell| cell.holder == Some(holder)).count();
    (map.cells.iter().map(|cell| cell.in_use_count).sum(), (0..count).map(cells).collect())
}

#[test]
fn a_view_shows_who_runs_who_waits_and_whose_each_block_is() {
    let mut stage = Stage::new(SchedulerLimits { running_max_count: 2, ..limits() });
    let (first, second, third) = (stage.submit(6, 9), stage.submit(20, 9), stage.submit(3, 9));
    let batch = stage.plan().expect("two can run");
    let result = stage.compute(&batch);
    stage.scheduler.commit(result, stage.now, &mut stage.events);
    let view = stage.scheduler.view(SIZE);
    let ids = |sequences: &[SequenceView]| sequences.iter().map(|sequence| sequence.seq).collect::<Vec<_>>();
    assert_eq!((ids(&view.running), ids(&view.waiting)), (vec![first, second], vec![third]));
    let (one, two) = (view.running[0], view.running[1]);
    assert_eq!((one.decoding, one.computed_tokens, one.generated_tokens, one.max_tokens), (true, 6, 1, 9));
    assert_eq!((two.decoding, two.computed_tokens, two.generated_tokens, two.prompt_tokens), (false, 16, 0, 20));
    assert_eq!((view.global.blocks_per_cell, view.global.total_count), (1, 64));
    assert_eq!((one.global_blocks, two.global_blocks), (2, 5));
    assert_eq!(held(&view.global, 2), (7, vec![2, 5]));
    assert_eq!(held(&view.sliding, 2).1, [one.sliding_blocks, two.sliding_blocks]);
    assert_eq!(view.global.free_count, 57);
}

#[test]
fn a_view_is_as_small_as_it_was_asked_to_be() {
    let mut stage = Stage::new(limits());
    for _ in 0..20 {
        stage.submit(9, 9);
    }
    let batch = stage.plan().expect("some can run");
    let size = ViewSize { running_max_count: 1, waiting_max_count: 2, cells_max_count: 10 };
    let view = stage.scheduler.view(size);
    assert_eq!((view.running.len(), view.waiting.len()), (1, 2));
    assert_eq!((view.global.blocks_per_cell, view.global.cells.len()), (7, 10));
    // All that is in use is counted, also where its holder is not shown.
    let in_use = stage.scheduler.pools.global.total_count() - stage.scheduler.pools.global.free_count();
    assert_eq!((held(&view.global, 1).0, batch.slices.len() > 1), (in_use, true));
}
