//! Tokens per second of the CPU engine: prefill of one prompt, decode of some sequences.
//!
//! `cargo bench --bench forward -- [--model DIR] [--threads N] [--math exact|int16|fast]
//! [--dense bf16|int8] [--isa NAME] [--seconds S] [--steps N] [--context N] [--explain yes]
//! [prefill=N] [decode=N] ..`
//!
//! Without a model it takes the embedded one, without works a few usual ones, without NAME
//! (`AVX-512`) the fastest instructions. A prefill is one step; a decode goes on by `--steps`
//! tokens behind a prompt of 64 for each sequence, or behind `--context` positions whose keys and
//! values are made up. Tokens are random, so that experts are hit as by many users. A line is a work:
//! median, smallest and largest of its rounds, which last `--seconds` together.
//! With `--explain` a table says where the time of a work's steps goes ([`explain`]).
//! Run as a test (without `--bench`) it does one short round of each.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use antiphon::batch::{Batch, BlockId, Draw, Sampling, SeqId, Slice, TokenId};
use antiphon::engine::Engine as _;
use antiphon::engine::checkpoint::{Checkpoint, CheckpointFiles};
use antiphon::engine::cpu::{CpuEngine, CpuOptions, Format, Isa, Math};
use explain::Explained;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod explain;

/// Tokens that each decoding sequence has before its first step.
const PROMPT_TOKENS: usize = 64;

/// What is measured.
#[derive(Clone, Copy)]
enum Work {
    /// A prompt of so many tokens in one step.
    Prefill(usize),
    /// So many sequences.
    Decode(usize),
}

/// What the command line asks for.
struct Asked {
    model: String,
    threads: Option<usize>,
    math: Math,
    dense: Format,
    isa: Option<Isa>,
    budget: Duration,
    steps: usize,
    /// Positions before a decode's first step, if they are made up.
    made_up: Option<usize>,
    explains: bool,
    works: Vec<Work>,
}

impl Asked {
    fn read() -> Self {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
        let mut asked = Self {
            model: tiny.display().to_string(),
            threads: None,
            math: CpuOptions::MATH,
            dense: CpuOptions::DENSE,
            isa: None,
            budget: Duration::ZERO,
            steps: 4,
            made_up: None,
            explains: false,
            works: Vec::new(),
        };
        let words: Vec<String> = std::env::args().skip(1).collect();
        if words.iter().any(|word| word == "--bench") {
            (asked.budget, asked.steps) = (Duration::from_secs(3), 64);
        }
        let mut words = words.into_iter().filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let work = word.split_once('=').map(|(work, count)| (work, count.parse().expect("a number of tokens")));
            match work {
                Some(("prefill", tokens)) => asked.works.push(Work::Prefill(tokens)),
                Some(("decode", sequences)) => asked.works.push(Work::Decode(sequences)),
                _ => asked.option(&word, &words.next().unwrap_or_default()),
            }
        }
        if asked.works.is_empty() {
            asked.works = vec![Work::Prefill(512), Work::Decode(1), Work::Decode(8), Work::Decode(32)];
        }
        asked
    }

    fn option(&mut self, name: &str, value: &str) {
        match (name, value) {
            ("--model", directory) => self.model = directory.to_owned(),
            ("--threads", threads) => self.threads = Some(threads.parse().expect("a number of threads")),
            ("--seconds", seconds) => self.budget = Duration::from_secs_f64(seconds.parse().expect("a number of seconds")),
            ("--steps", steps) => self.steps = steps.parse().expect("a number of steps"),
            ("--context", context) => self.made_up = Some(context.parse().expect("a number of positions")),
            ("--explain", "yes") => self.explains = true,
            ("--math", "exact") => self.math = Math::Exact,
            ("--math", "int16") => self.math = Math::Int16,
            ("--math", "fast") => self.math = Math::Fast,
            ("--dense", "bf16") => self.dense = Format::Bf16,
            ("--dense", "int8") => self.dense = Format::Int8,
            ("--isa", name) if let Some(isa) = Isa::available().into_iter().find(|isa| isa.name() == name) => {
                self.isa = Some(isa);
            }
            _ => panic!("`{name} {value}`; expected an option or a work of those that the head of benches/forward.rs names"),
        }
    }

    /// Most tokens of a step, but for those of many sequences.
    fn slice_tokens(&self) -> usize {
        let prefills = self.works.iter().filter_map(|work| if let Work::Prefill(tokens) = work { Some(*tokens) } else { None });
        prefills.max().unwrap_or(0).max(PROMPT_TOKENS)
    }

    /// Positions before a decode's first step.
    fn start(&self) -> usize {
        self.made_up.unwrap_or(PROMPT_TOKENS)
    }

    /// Most tokens of a sequence.
    fn context(&self) -> usize {
        self.slice_tokens().max(self.start() + self.steps)
    }

    fn bench(&self) -> Bench {
        let files = CheckpointFiles::directory(Path::new(&self.model)).expect("a model's directory");
        let checkpoint = Arc::new(Checkpoint::open(&files).expect("a sound model"));
        let window = checkpoint.config().sliding_window_tokens;
        let sequences = self.works.iter().map(|work| if let Work::Decode(sequences) = work { *sequences } else { 1 });
        let sequences = sequences.max().unwrap_or(1);
        let options =
            CpuOptions::within(checkpoint.config(), self.math, 1 << 30, sequences, self.slice_tokens().max(sequences));
        // Room for every sequence's whole context, and for a window and a step, keeps the block
        // tables simple.
        let context_blocks = self.context().div_ceil(options.block_tokens);
        let window_blocks = (window + self.slice_tokens()).div_ceil(options.block_tokens) + 1;
        let options = CpuOptions {
            global_blocks: sequences * context_blocks,
            sliding_blocks: sequences * window_blocks,
            threads: self.threads.unwrap_or(options.threads),
            dense: self.dense,
            isa: self.isa,
            ..options
        };
        let mut engine = CpuEngine::load(checkpoint, &options, &mut |_| {});
        if self.made_up.is_some() {
            let mut bits = 1u32;
            engine.fill_kv_memory(|| {
                // Marsaglia's xorshift.
                bits ^= bits << 13;
                bits ^= bits >> 17;
                bits ^= bits << 5;
                bits as f32 / (1u64 << 32) as f32 - 0.5
            });
        }
        let (start, threads, steps) = (self.start(), options.threads, self.steps);
        Bench { engine, window, context_blocks, window_blocks, start, threads, steps }
    }
}

/// An engine and how its block tables are laid out.
struct Bench {
    engine: CpuEngine,
    window: usize,
    context_blocks: usize,
    window_blocks: usize,
    /// Positions before a decode's first step.
    start: usize,
    threads: usize,
    steps: usize,
}

impl Bench {
    /// Adds tokens `start .. start + len` of sequence `index`, which draws greedily after them.
    fn add(&self, batch: &mut Batch, index: usize, start: usize, len: usize) {
        let limits = self.engine.limits();
        let table = (start + len).div_ceil(limits.block_tokens);
        let number = |block: usize| BlockId(u32::try_from(block).expect("a small number"));
        let global = (0..table).map(|block| number(index * self.context_blocks + block));
        // A window's blocks take turns.
        let sliding_first = (start + 1).saturating_sub(self.window) / limits.block_tokens;
        let sliding = (sliding_first..table).map(|block| number(index * self.window_blocks + block % self.window_blocks));
        let draw =
            Draw { sampling: Arc::new(Sampling::default()), generated_count: 0, history: Vec::new(), history_prompt_len: 0 };
        batch.slices.push(Slice {
            seq: SeqId(index as u64),
            tokens: batch.tokens.len()..batch.tokens.len() + len,
            start,
            global_blocks: batch.global_blocks.len()..batch.global_blocks.len() + table,
            sliding_blocks: batch.sliding_blocks.len()..batch.sliding_blocks.len() + table - sliding_first,
            sliding_first,
            draw: Some(draw),
            drafts: 0,
            prompt_targets: None,
        });
        // Knuth's multiplicative hash: as good as random.
        let hash = |at: usize| (at * 1009 + index + 1).wrapping_mul(2_654_435_761) % (1 << 32);
        let token = |at: usize| (hash(at) * limits.vocab_size) >> 32;
        batch.tokens.extend((start..start + len).map(|at| TokenId(u32::try_from(token(at)).expect("a vocabulary fits"))));
        batch.global_blocks.extend(global);
        batch.sliding_blocks.extend(sliding);
    }

    fn step(&mut self, batch: &Batch) {
        let mut sampled = Vec::new();
        self.engine.execute(batch, &mut sampled).expect("the CPU does not fail");
        assert_eq!(sampled.len(), batch.slices.len());
    }

    /// The steps of one round of a work, and its tokens.
    fn batches(&self, work: Work) -> (Vec<Batch>, usize) {
        match work {
            Work::Prefill(tokens) => {
                let mut batch = Batch::default();
                self.add(&mut batch, 0, 0, tokens);
                (vec![batch], tokens)
            }
            Work::Decode(sequences) => {
                let step = |step: usize| {
                    let mut batch = Batch::default();
                    (0..sequences).for_each(|index| self.add(&mut batch, index, self.start + step, 1));
                    batch
                };
                ((0..self.steps).map(step).collect(), sequences * self.steps)
            }
        }
    }

    /// One round of a work; its tokens and how long they took.
    fn round(&mut self, work: Work) -> (usize, Duration) {
        let (batches, tokens) = self.batches(work);
        let begun = Instant::now();
        batches.iter().for_each(|batch| self.step(batch));
        (tokens, begun.elapsed())
    }

    /// The same with every operation timed.
    fn explained_round(&mut self, work: Work, explained: &mut Explained) {
        for batch in self.batches(work).0 {
            self.engine.start_timing(explain::now_ns);
            let begun_ns = explain::now_ns();
            self.step(&batch);
            let step_ns = explain::now_ns() - begun_ns;
            explained.add(step_ns, &self.engine.take_timing());
        }
    }
}

fn main() {
    let asked = Asked::read();
    let mut bench = asked.bench();
    for &work in &asked.works {
        let name = match work {
            Work::Prefill(tokens) => format!("prefill={tokens}"),
            Work::Decode(sequences) => {
                for index in (0..sequences).filter(|_| asked.made_up.is_none()) {
                    let mut batch = Batch::default();
                    bench.add(&mut batch, index, 0, PROMPT_TOKENS);
                    bench.step(&batch);
                }
                format!("decode={sequences}")
            }
        };
        let begun = Instant::now();
        let mut speeds = Vec::new();
        let mut explained = Explained::default();
        while speeds.is_empty() || begun.elapsed() < asked.budget {
            let (tokens, time) = bench.round(work);
            speeds.push(tokens as f64 / time.as_secs_f64());
            if asked.explains {
                bench.explained_round(work, &mut explained);
            }
        }
        speeds.sort_by(f64::total_cmp);
        let (least, median, most) = (speeds[0], speeds[speeds.len() / 2], speeds[speeds.len() - 1]);
        println!("{name:<14} {median:>9.1} tokens/s ({least:.1} to {most:.1}, {} rounds)", speeds.len());
        if asked.explains {
            println!("{}", explained.table(bench.threads));
        }
    }
    if asked.explains {
        println!("{}", explain::huge_pages());
    }
}
