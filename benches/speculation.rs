//! Tokens per second of "repeat this code with one change", with drafts and without, on the core
//! and the CPU engine.
//!
//! `cargo bench --bench speculation -- [--model DIR] [--threads N] [--sequences N] [--draft-budget
//! N] [--seconds S]`: without a model the embedded one. The prompt is a file of this project, the
//! answer the same file with one function renamed, both in the embedded model's tokens; so many
//! sequences do that beside each other. Each step runs through the model, draws and all; what is
//! said is set, because only large models do what they are asked: each drawn token is exchanged
//! for the answer's at its place. Only steps in which all decode are counted. Rounds with drafts
//! and without take turns for S seconds; a line has the median, smallest and largest. Run as a test
//! (without `--bench`) it does one round of each with the beginning of the file.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::batch::{Batch, Micros, Sampled, Sampling, StepResult, TokenId};
use antiphon::engine::Engine as _;
use antiphon::engine::checkpoint::{Checkpoint, CheckpointFiles};
use antiphon::engine::cpu::{CpuEngine, CpuOptions};
use antiphon::prompt::tokenizer::Tokenizer;
use antiphon::scheduler::{CacheSalt, DraftCounts, NewSequence, Plan, Scheduler, SchedulerLimits};

/// What is repeated, and its change.
const CODE: &str = include_str!("../src/scheduler/planning.rs");
const CHANGE: (&str, &str) = ("catch_up", "give_slices");

/// What the command line asks for.
struct Asked {
    model: String,
    threads: Option<usize>,
    sequences: usize,
    draft_budget_tokens: usize,
    budget: Duration,
    /// Most bytes of the code.
    code_bytes: usize,
}

impl Asked {
    fn read() -> Self {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny").display().to_string();
        let (threads, sequences, draft_budget_tokens) = (None, 1, 16);
        let mut asked =
            Self { model: tiny, threads, sequences, draft_budget_tokens, budget: Duration::ZERO, code_bytes: 1_000 };
        let words: Vec<String> = std::env::args().skip(1).collect();
        if words.iter().any(|word| word == "--bench") {
            (asked.budget, asked.code_bytes) = (Duration::from_secs(20), CODE.len());
        }
        let mut words = words.into_iter().filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_default();
            let number = || value.parse::<usize>().expect("a whole number");
            match word.as_str() {
                "--model" => asked.model.clone_from(&value),
                "--threads" => asked.threads = Some(number()),
                "--sequences" => asked.sequences = number(),
                "--draft-budget" => asked.draft_budget_tokens = number(),
                "--seconds" => asked.budget = Duration::from_secs(number() as u64),
                _ => panic!("`{word}`; expected an option that the head of benches/speculation.rs names"),
            }
        }
        asked
    }
}

/// An engine that says what it is told, after it has computed what it would say.
struct Bench {
    engine: CpuEngine,
    sequences: usize,
    prompt: Vec<TokenId>,
    answer: Vec<TokenId>,
}

impl Bench {
    fn new(asked: &Asked) -> Self {
        let json = include_bytes!("../models/tiny/tokenizer.json");
        let files = CheckpointFiles::directory(Path::new(&asked.model)).expect("a model's directory");
        let checkpoint = Arc::new(Checkpoint::open(&files).expect("a sound model"));
        let vocab_size = checkpoint.config().vocab_size;
        let tokenizer = Tokenizer::from_json("tokenizer.json", json, vocab_size).expect("the embedded tokenizer is sound");
        let end = CODE.floor_char_boundary(asked.code_bytes);
        let encode = |text: &str| tokenizer.encode_text(text);
        let (prompt, answer) = (encode(&CODE[..end]), encode(&CODE[..end].replace(CHANGE.0, CHANGE.1)));
        let tokens = prompt.len() + answer.len();
        let options = CpuOptions::within(checkpoint.config(), CpuOptions::MATH, 1 << 30, asked.sequences, 512);
        let blocks = asked.sequences * (tokens.div_ceil(options.block_tokens) + 1);
        let threads = asked.threads.unwrap_or(options.threads);
        let options = CpuOptions { global_blocks: blocks, sliding_blocks: blocks, threads, ..options };
        let engine = CpuEngine::load(checkpoint, &options, &mut |_| {});
        assert!(tokens <= engine.limits().context_tokens_max, "{tokens} tokens are more than the model's context");
        Self { engine, sequences: asked.sequences, prompt, answer }
    }

    fn core(&self, draft_budget_tokens: usize) -> Scheduler {
        let limits = self.engine.limits();
        let mut core = Scheduler::new(SchedulerLimits {
            block_tokens: limits.block_tokens,
            global_blocks: limits.global_blocks,
            sliding_blocks: limits.sliding_blocks,
            sliding_window_tokens: limits.sliding_window_tokens,
            context_tokens_max: limits.context_tokens_max,
            token_budget_tokens: limits.step_tokens_max,
            running_max_count: limits.step_slices_max,
            slice_drafts_max: limits.slice_drafts_max,
            draft_budget_tokens,
            ..SchedulerLimits::default()
        });
        for _ in 0..self.sequences {
            let sequence = NewSequence {
                prompt: self.prompt.clone(),
                max_tokens: u32::try_from(self.answer.len()).expect("a file is short"),
                sampling: Arc::new(Sampling::default()),
                cache_salt: CacheSalt::default(),
                in_session: false,
                priority: 0,
            };
            core.submit(sequence, Micros(0)).expect("the queue has room");
        }
        core
    }

    /// Computes the step; the reports say the answer's tokens at their places.
    fn step(&mut self, batch: &Batch) -> Vec<Sampled> {
        let mut sampled = Vec::new();
        self.engine.execute(batch, &mut sampled).expect("the CPU does not fail");
        let drawing =
            batch.slices.iter().filter_map(|slice| Some((slice.draw.as_ref()?.generated_count as usize, slice.drafts)));
        let places = drawing.flat_map(|(first, drafts)| first..=first + drafts);
        for (report, place) in sampled.iter_mut().zip(places) {
            report.token = Some(Ok(self.answer[place]));
        }
        sampled
    }

    /// One round: tokens per second while all decode, and what came of drafts.
    fn round(&mut self, draft_budget_tokens: usize) -> (f64, DraftCounts) {
        let (mut core, mut events, mut spent, mut tokens) = (self.core(draft_budget_tokens), Vec::new(), Duration::ZERO, 0);
        loop {
            let begun = Instant::now();
            let before = core.counts();
            let Plan::Step(batch) = core.plan(Micros(0), &mut events) else { break };
            let batch = batch.clone();
            let reports = self.step(&batch);
            core.commit(StepResult::Done(reports), Micros(0), &mut events);
            events.clear();
            if before.decode_count == self.sequences {
                spent += begun.elapsed();
                tokens += core.counts().decode_tokens_total - before.decode_tokens_total;
            }
        }
        (tokens as f64 / spent.as_secs_f64(), core.counts().drafts)
    }
}

fn main() {
    let asked = Asked::read();
    let mut bench = Bench::new(&asked);
    println!("{} sequences repeat {} tokens in {}", bench.sequences, bench.prompt.len(), bench.answer.len());
    let (mut plain, mut fast) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while plain.is_empty() || begun.elapsed() < asked.budget {
        plain.push(bench.round(0));
        fast.push(bench.round(asked.draft_budget_tokens));
    }
    let median = |rounds: &mut Vec<(f64, DraftCounts)>| {
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let [least, median, most] = [0, rounds.len() / 2, rounds.len() - 1].map(|at| rounds[at].0);
        (median, format!("{median:>9.1} tokens/s ({least:.1} to {most:.1}, {} rounds)", rounds.len()))
    };
    let counts = fast[0].1;
    let ((slow, slow_line), (quick, quick_line)) = (median(&mut plain), median(&mut fast));
    println!("without  {slow_line}");
    println!("drafts   {quick_line}, {:.2} times", quick / slow);
    println!(
        "{} of {} guessed tokens were right, in {} slices",
        counts.accepted_tokens_total, counts.draft_tokens_total, counts.drafts_total
    );
}
