//! A step in the device's words, and where each of its lists lies.
//!
//! Owns: the host's side of a step, filled again and again. All lists go to the device in one copy;
//! where they lie follows from their capacities, so that a captured graph finds them where it left
//! them.

use super::memory::CudaOptions;
use crate::batch::{Awaited, Batch, KvGroup, Slice};
use crate::engine::config::ModelConfig;
use antiphon_kernels::cuda::{AttentionItem, CHUNK_TOKENS, DECODE_ROWS, PREFILL_ROWS, Region, Split, Work};

/// Words of an item, of a split.
const ITEM_WORDS: usize = 10;
const SPLIT_WORDS: usize = 3;
/// Where the numbers of things stand among the first words: tokens, then items, prefill items and
/// splits of each group.
const COUNTS: usize = 8;

/// Attention's work over the layers of one group.
#[derive(Debug, Default)]
struct Lists {
    slots: Vec<i32>,
    decode: Vec<AttentionItem>,
    prefill: Vec<AttentionItem>,
    splits: Vec<Split>,
}

/// How long each list may be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupSizes {
    pub(super) decode: usize,
    pub(super) prefill: usize,
    pub(super) splits: usize,
}

/// How many tokens, how long the lists of the global and of the sliding layers may be, and how many
/// blocks the tables name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StepSizes {
    pub(super) tokens: usize,
    pub(super) groups: [GroupSizes; 2],
    pub(super) blocks: usize,
}

impl StepSizes {
    /// The largest decode step of `tokens` sequences, without block tables.
    pub(super) fn decode(tokens: usize, config: &ModelConfig, options: &CudaOptions) -> Self {
        let group = |group: KvGroup| {
            let seen = window(config, group).min(config.context_tokens_max);
            // Wherever a window begins, it touches one chunk more than it fills.
            let chunks = (seen.div_ceil(CHUNK_TOKENS) + 1).min(config.context_tokens_max.div_ceil(CHUNK_TOKENS));
            let parts = (config.heads / config.kv_heads).div_ceil(DECODE_ROWS);
            GroupSizes { decode: (tokens * chunks).min(options.partial_slots + tokens) * parts, prefill: 0, splits: tokens }
        };
        Self { tokens, groups: [group(KvGroup::Global), group(KvGroup::Sliding)], blocks: 0 }
    }

    /// Words that a step of these sizes takes.
    pub(super) fn words(&self) -> usize {
        self.place().end
    }

    /// What grows with the sequences comes last, so that where the rest lies follows from how many
    /// tokens there are.
    fn place(&self) -> ListOffsets {
        let mut end = COUNTS;
        let mut take = |words: usize| {
            let start = end;
            end += words.next_multiple_of(4);
            start
        };
        let (tokens, positions) = (take(self.tokens), take(self.tokens));
        let mut groups = self.groups.map(|sizes| GroupOffsets {
            slots: take(self.tokens),
            splits: take(sizes.splits * SPLIT_WORDS),
            prefill: take(sizes.prefill * ITEM_WORDS),
            decode: 0,
        });
        for index in [1, 0] {
            groups[index].decode = take(self.groups[index].decode * ITEM_WORDS);
        }
        let blocks = take(self.blocks);
        ListOffsets { tokens, positions, groups, blocks, end }
    }
}

/// How many positions a token of these layers sees.
fn window(config: &ModelConfig, group: KvGroup) -> usize {
    match group {
        KvGroup::Global => config.context_tokens_max,
        KvGroup::Sliding => config.sliding_window_tokens,
    }
}

struct ListOffsets {
    tokens: usize,
    positions: usize,
    groups: [GroupOffsets; 2],
    blocks: usize,
    end: usize,
}

struct GroupOffsets {
    slots: usize,
    decode: usize,
    prefill: usize,
    splits: usize,
}

/// A step's lists on the device.
pub(super) struct StepRegions {
    pub(super) tokens: Region<u32>,
    pub(super) positions: Region<i32>,
    pub(super) token_count: Region<i32>,
    pub(super) groups: [GroupRegions; 2],
    /// All words: an item says where among them its block table begins.
    pub(super) words: Region<u32>,
}

/// The lists for the layers of one group.
pub(super) struct GroupRegions {
    pub(super) slots: Region<i32>,
    decode: (Region<AttentionItem>, Region<i32>),
    prefill: (Region<AttentionItem>, Region<i32>),
    splits: (Region<Split>, Region<i32>),
}

impl GroupRegions {
    /// The work of one kind; `None` if there is none.
    pub(super) fn items(&self, is_prefill: bool) -> Option<Work<'_, AttentionItem>> {
        let (items, count) = if is_prefill { &self.prefill } else { &self.decode };
        (!items.is_empty()).then_some(Work { items, count })
    }

    /// Tokens whose partial sums are merged; `None` if there are none.
    pub(super) fn splits(&self) -> Option<Work<'_, Split>> {
        let (items, count) = &self.splits;
        (!items.is_empty()).then_some(Work { items, count })
    }
}

impl StepRegions {
    /// Where the lists of a step of these sizes lie in `words`.
    pub(super) fn of(words: &Region<u32>, sizes: &StepSizes) -> Self {
        let places = sizes.place();
        let count = |index: usize| words.view(index, 1);
        let mut index = 1;
        let mut group = |at: &GroupOffsets, lens: &GroupSizes| {
            let first = index;
            index += 3;
            GroupRegions {
                slots: words.view(at.slots, sizes.tokens),
                decode: (words.view(at.decode, lens.decode), count(first)),
                prefill: (words.view(at.prefill, lens.prefill), count(first + 1)),
                splits: (words.view(at.splits, lens.splits), count(first + 2)),
            }
        };
        let [global, sliding] = &places.groups;
        let groups = [group(global, &sizes.groups[0]), group(sliding, &sizes.groups[1])];
        Self {
            tokens: words.view(places.tokens, sizes.tokens),
            positions: words.view(places.positions, sizes.tokens),
            token_count: count(0),
            groups,
            words: words.clone(),
        }
    }
}

/// A step on the host.
#[derive(Debug, Default)]
pub(super) struct HostStep {
    tokens: Vec<u32>,
    positions: Vec<i32>,
    groups: [Lists; 2],
    /// The block tables of the global layers, then those of the sliding ones.
    blocks: Vec<u32>,
}

fn int(count: usize) -> i32 {
    i32::try_from(count).expect("no count of a step comes near 2^31")
}

impl HostStep {
    /// Takes over a batch: its tokens, where their keys and values go, and attention's work.
    /// `awaited` says what stands for the token that a slice of the step before draws.
    pub(super) fn fill(&mut self, batch: &Batch, awaited: impl Fn(usize) -> u32, config: &ModelConfig, options: &CudaOptions) {
        self.tokens.clear();
        self.tokens.extend(batch.tokens.iter().map(|token| token.0));
        for Awaited { token, slice } in &batch.awaited {
            self.tokens[*token] = awaited(*slice);
        }
        self.positions.clear();
        self.positions.extend(batch.slices.iter().flat_map(|slice| slice.start..slice.end()).map(int));
        self.blocks.clear();
        self.blocks.extend(batch.global_blocks.iter().chain(&batch.sliding_blocks).map(|block| block.0));
        let [global, sliding] = &mut self.groups;
        global.fill(batch, KvGroup::Global, 0, config, options);
        sliding.fill(batch, KvGroup::Sliding, batch.global_blocks.len(), config, options);
    }

    /// Whether every slice is one token: such a step can be captured.
    pub(super) fn is_decode(&self) -> bool {
        !self.tokens.is_empty() && self.groups.iter().all(|lists| lists.prefill.is_empty())
    }

    pub(super) fn sizes(&self) -> StepSizes {
        let group =
            |lists: &Lists| GroupSizes { decode: lists.decode.len(), prefill: lists.prefill.len(), splits: lists.splits.len() };
        let [global, sliding] = &self.groups;
        StepSizes { tokens: self.tokens.len(), groups: [group(global), group(sliding)], blocks: self.blocks.len() }
    }

    /// The same lists laid out as in a captured step of `captured` sizes: all but what comes last
    /// have their places there.
    pub(super) fn sizes_within(&self, captured: &StepSizes) -> StepSizes {
        let (own, mut sizes) = (self.sizes(), *captured);
        (sizes.groups[0].decode, sizes.blocks) = (own.groups[0].decode, own.blocks);
        sizes
    }

    /// Writes the lists where `sizes` has them; tokens that fill up to its size store nothing and
    /// attend to nothing.
    pub(super) fn write(&self, sizes: &StepSizes, words: &mut [u32]) {
        let places = sizes.place();
        words[0] = self.tokens.len() as u32;
        let mut put = |at: usize, len: usize, values: &mut dyn Iterator<Item = u32>, rest: u32| {
            let room = &mut words[at..at + len];
            let mut used = 0;
            for (word, value) in room.iter_mut().zip(values) {
                *word = value;
                used += 1;
            }
            room[used..].fill(rest);
        };
        put(places.tokens, sizes.tokens, &mut self.tokens.iter().copied(), 0);
        put(places.positions, sizes.tokens, &mut self.positions.iter().map(|position| position.cast_unsigned()), 0);
        for ((lists, at), lens) in self.groups.iter().zip(&places.groups).zip(&sizes.groups) {
            put(at.slots, sizes.tokens, &mut lists.slots.iter().map(|slot| slot.cast_unsigned()), u32::MAX);
            let words = |item: &AttentionItem| AttentionItem { table: item.table + int(places.blocks), ..*item }.words();
            put(at.decode, lens.decode * ITEM_WORDS, &mut lists.decode.iter().flat_map(words), 0);
            put(at.prefill, lens.prefill * ITEM_WORDS, &mut lists.prefill.iter().flat_map(words), 0);
            put(at.splits, lens.splits * SPLIT_WORDS, &mut lists.splits.iter().flat_map(Split::words), 0);
        }
        put(places.blocks, sizes.blocks, &mut self.blocks.iter().copied(), 0);
        for (lists, counts) in self.groups.iter().zip(words[1..7].as_chunks_mut::<3>().0) {
            *counts = [lists.decode.len(), lists.prefill.len(), lists.splits.len()].map(|len| len as u32);
        }
    }
}

impl Lists {
    /// `tables`: where the group's block tables begin among all.
    fn fill(&mut self, batch: &Batch, group: KvGroup, tables: usize, config: &ModelConfig, options: &CudaOptions) {
        self.slots.clear();
        self.decode.clear();
        self.prefill.clear();
        self.splits.clear();
        let blocks = match group {
            KvGroup::Global => &batch.global_blocks,
            KvGroup::Sliding => &batch.sliding_blocks,
        };
        if config.layers_of(group) == 0 {
            self.slots.resize(batch.tokens.len(), -1);
            return;
        }
        let mut slots_used = 0;
        for slice in &batch.slices {
            let (range, first) = match group {
                KvGroup::Global => (slice.global_blocks.clone(), 0),
                KvGroup::Sliding => (slice.sliding_blocks.clone(), slice.sliding_first),
            };
            for position in slice.start..slice.end() {
                let block = blocks[range.clone()][position / options.block_tokens - first].0 as usize;
                self.slots.push(int(block * options.block_tokens + position % options.block_tokens));
            }
            let item = AttentionItem {
                token: int(slice.tokens.start),
                start: int(slice.start),
                table: int(tables + range.start),
                table_first: int(first),
                chunk: 0,
                chunk_end: int(slice.end().div_ceil(CHUNK_TOKENS)),
                partial: -1,
                window: int(window(config, group)),
                ..AttentionItem::default()
            };
            self.add(slice, item, config, options.partial_slots, &mut slots_used);
        }
    }

    /// Cuts a slice into items: a single token by its chunks, as long as there are slots for their
    /// sums; more tokens by rows.
    fn add(&mut self, slice: &Slice, item: AttentionItem, config: &ModelConfig, slots: usize, slots_used: &mut usize) {
        let rows = slice.len() * (config.heads / config.kv_heads);
        let cut = |item: AttentionItem, most: usize| {
            let part = move |row: usize| AttentionItem { row: int(row), rows: int(most.min(rows - row)), ..item };
            (0..rows).step_by(most).map(part)
        };
        if slice.len() > 1 {
            self.prefill.extend(cut(item, PREFILL_ROWS));
            return;
        }
        let window = usize::try_from(item.window).expect("not negative");
        let from = (slice.start + 1).saturating_sub(window) / CHUNK_TOKENS;
        let chunks = slice.start / CHUNK_TOKENS + 1 - from;
        if chunks == 1 || *slots_used + chunks > slots {
            self.decode.extend(cut(item, DECODE_ROWS));
            return;
        }
        for chunk in 0..chunks {
            let (at, slot) = (from + chunk, *slots_used + chunk);
            self.decode
                .extend(cut(AttentionItem { chunk: int(at), chunk_end: int(at + 1), partial: int(slot), ..item }, DECODE_ROWS));
        }
        self.splits.push(Split { token: item.token, first: int(*slots_used), chunks: int(chunks) });
        *slots_used += chunks;
    }
}

/// Words of the largest step: every sequence with its longest context, all of the tokens in prefill
/// or one each.
pub(super) fn step_words_max(config: &ModelConfig, options: &CudaOptions) -> usize {
    let (tokens, slices, group) = (options.step_tokens_max, options.step_slices_max, config.heads / config.kv_heads);
    let decode = StepSizes::decode(slices, config, options);
    let groups = decode.groups.map(|sizes| GroupSizes { prefill: tokens * group / PREFILL_ROWS + slices, ..sizes });
    let blocks = 2 * slices * config.context_tokens_max.div_ceil(options.block_tokens);
    StepSizes { tokens: tokens.max(slices), groups, blocks }.words()
}
