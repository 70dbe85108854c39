//! What the core looks like at one moment, for the console.
//!
//! Read only, and bounded: the caller says how many sequences and how many cells of the block maps
//! are enough.

use super::Scheduler;
use super::block_pool::BlockPool;
use super::running::Runner;
use super::sequence::Sequence;
use crate::batch::{BlockId, Micros, SeqId};

/// How much to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewSize {
    /// Most running sequences, oldest first.
    pub running_max_count: usize,
    /// Most waiting sequences, those that are next first.
    pub waiting_max_count: usize,
    /// Most cells of a group's block map; at least one.
    pub cells_max_count: usize,
}

/// The core at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchedulerView {
    /// The batch: the running sequences, oldest first.
    pub running: Vec<SequenceView>,
    /// The waiting sequences, next first.
    pub waiting: Vec<SequenceView>,
    /// Tokens in a KV block.
    pub block_tokens: usize,
    /// Blocks of the full-attention layers.
    pub global: BlockMap,
    /// Blocks of the sliding-window layers.
    pub sliding: BlockMap,
}

/// One sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceView {
    /// Which.
    pub seq: SeqId,
    /// Whether it runs and generates; else it waits or computes its prompt.
    pub decoding: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens, prompt and output, whose keys and values are stored, or will be by the step under
    /// way, if its end is presumed.
    pub computed_tokens: usize,
    /// Tokens generated so far.
    pub generated_tokens: usize,
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// Global blocks that it holds.
    pub global_blocks: usize,
    /// Sliding blocks that it holds.
    pub sliding_blocks: usize,
    /// When its request was submitted.
    pub arrived: Micros,
}

/// The blocks of one group, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockMap {
    /// All of them.
    pub total_count: usize,
    /// Those that are free.
    pub free_count: usize,
    /// How many blocks a cell stands for; the last cell may stand for fewer.
    pub blocks_per_cell: usize,
    /// The map.
    pub cells: Vec<BlockCell>,
}

/// Some neighbouring blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCell {
    /// How many of them sequences hold.
    pub in_use_count: usize,
    /// Which entry of [`SchedulerView::running`] holds the first block that one of those shown
    /// holds.
    pub holder: Option<usize>,
}

impl BlockMap {
    fn new(pool: &BlockPool, cells_max_count: usize) -> Self {
        let total_count = pool.total_count();
        let blocks_per_cell = total_count.div_ceil(cells_max_count).max(1);
        let mut cells = vec![BlockCell::default(); total_count.div_ceil(blocks_per_cell)];
        for block in pool.in_use() {
            cells[block.0 as usize / blocks_per_cell].in_use_count += 1;
        }
        Self { total_count, free_count: pool.free_count(), blocks_per_cell, cells }
    }

    fn mark(&mut self, blocks: impl Iterator<Item = BlockId>, holder: usize) {
        for block in blocks {
            self.cells[block.0 as usize / self.blocks_per_cell].holder.get_or_insert(holder);
        }
    }
}

impl SequenceView {
    fn running(runner: &Runner, sequence: &Sequence) -> Self {
        Self {
            decoding: runner.decoding,
            computed_tokens: runner.computed,
            generated_tokens: runner.generated_count as usize - usize::from(runner.awaited_of().is_some()),
            global_blocks: runner.tables.global.len(),
            sliding_blocks: runner.tables.sliding.len(),
            ..Self::waiting(sequence)
        }
    }

    fn waiting(sequence: &Sequence) -> Self {
        Self {
            seq: sequence.id,
            decoding: false,
            prompt_tokens: sequence.prompt_len,
            computed_tokens: 0,
            generated_tokens: sequence.tokens.len() - sequence.prompt_len,
            max_tokens: sequence.max_tokens,
            global_blocks: 0,
            sliding_blocks: 0,
            arrived: sequence.arrived,
        }
    }
}

impl Scheduler {
    /// What the core looks like now. Takes time in proportion to all blocks and to what is shown.
    ///
    /// # Panics
    /// If a map may have no cell.
    #[must_use]
    pub fn view(&self, size: ViewSize) -> SchedulerView {
        let shown = || self.running.iter().take(size.running_max_count);
        let mut global = BlockMap::new(&self.pools.global, size.cells_max_count);
        let mut sliding = BlockMap::new(&self.pools.sliding, size.cells_max_count);
        for (holder, runner) in shown().enumerate() {
            global.mark(runner.tables.global(&self.tables).iter().copied(), holder);
            sliding.mark(runner.tables.sliding(&self.tables).iter().copied(), holder);
        }
        let waiting = self.waiting.iter().take(size.waiting_max_count);
        SchedulerView {
            running: shown().map(|runner| SequenceView::running(runner, &self.sequences[runner.place])).collect(),
            waiting: waiting.map(|(_, place)| SequenceView::waiting(&self.sequences[place])).collect(),
            block_tokens: self.geometry.block_tokens,
            global,
            sliding,
        }
    }
}
