//! How long a step takes with what the engine waits before it, from the end of the step before to
//! its own, on the real actors.
//!
//! `turn`: while it waits the result goes to the SchedulerActor, the core commits it and plans, and
//! the batch goes to the engine's thread. `ahead`: the engine takes the next step while it computes
//! one, and waits only where that step could not be planned so early. The engine here computes
//! nothing and takes as long for a step as a GPU does with so many sequences; what it draws goes to
//! StreamActors, which work while it computes, and to readers. Sequences have 64 to 320 tokens, and
//! when one ends another comes.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use antiphon::actors::messages::{AnswerOptions, AskedTokens, Coalescing, Generate, KeyId, ResponseInput, WrittenNumbers};
use antiphon::actors::service::Service;
use antiphon::actors::{SchedulingOptions, StartOptions, start};
use antiphon::batch::{Batch, EngineLimits, Sampled, Sampling, TokenId};
use antiphon::clock::Clock;
use antiphon::engine::{Engine, EngineError};
use antiphon::metrics::{Metrics, ModelTags};
use antiphon::prompt::builder::{PromptBuilder, PromptSettings, PromptVersion};
use antiphon::prompt::tokenizer::Tokenizer;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

const PROMPT_TOKENS: usize = 64;
const MAX_TOKENS: u32 = 256;
const VOCAB_SIZE: usize = 2_048;

/// Takes its time, and tells how long it was from one step's end to the next's, for each step that
/// nearly every sequence is in.
struct Pacemaker {
    sequences_count: usize,
    step_time: Duration,
    steps_max: usize,
    /// When the last step ends, or ended.
    ends: Option<Instant>,
    under_way: VecDeque<(Instant, Vec<Sampled>)>,
    told: mpsc::Sender<Duration>,
}

impl Engine for Pacemaker {
    fn limits(&self) -> EngineLimits {
        EngineLimits {
            block_tokens: 16,
            global_blocks: self.sequences_count * 21,
            sliding_blocks: self.sequences_count * 13,
            sliding_window_tokens: 128,
            step_tokens_max: 65_536,
            step_slices_max: self.sequences_count,
            context_tokens_max: 4_096,
            vocab_size: VOCAB_SIZE,
            slice_drafts_max: 0,
            copies_blocks: false,
            steps_max: self.steps_max,
            global_block_bytes: 1,
            sliding_block_bytes: 1,
        }
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let now = Instant::now();
        let begins = self.ends.map_or(now, |ends| ends.max(now));
        if let Some(ended) = self.ends.filter(|_| batch.slices.len() * 10 > self.sequences_count * 9) {
            // At the end the receiver is gone.
            let _ = self.told.send(begins - ended + self.step_time);
        }
        let drawing = batch.slices.iter().filter(|slice| slice.draw.is_some());
        let sampled = drawing.map(|slice| Sampled {
            seq: slice.seq,
            token: Some(Ok(TokenId(100))),
            logprobs: None,
            prompt_logprobs: Vec::new(),
        });
        let ends = begins + self.step_time;
        self.under_way.push_back((ends, sampled.collect()));
        self.ends = Some(ends);
        Ok(())
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        let (ends, mut reports) = self.under_way.pop_front().expect("a step is waited for that was begun");
        thread::sleep(ends.saturating_duration_since(Instant::now()));
        if self.under_way.is_empty() {
            // A sleep ends late, a device does not: that must not count as waiting.
            self.ends = Some(Instant::now());
        }
        sampled.append(&mut reports);
        Ok(())
    }
}

fn begin(sequences_count: usize, step_time: Duration, steps_max: usize, told: &mpsc::Sender<Duration>) -> Service {
    let json = include_bytes!("../models/tiny/tokenizer.json");
    let tokenizer =
        Arc::new(Tokenizer::from_json("tokenizer.json", json, VOCAB_SIZE).expect("the embedded tokenizer is sound"));
    let settings = PromptSettings { model_id: "none".to_owned(), version: PromptVersion::V1, cache_max_bytes: 0 };
    let told = told.clone();
    let tags = ["none"; 4].map(str::to_owned);
    let [model_id, model_size, dtype, gpu_mode] = tags;
    start(StartOptions {
        engine: Box::new(move || {
            let (ends, under_way, told) = (None, VecDeque::new(), told.clone());
            Ok(Box::new(Pacemaker { sequences_count, step_time, steps_max, ends, under_way, told }))
        }),
        builder: Arc::new(PromptBuilder::new(Arc::clone(&tokenizer), settings)),
        tokenizer,
        metrics: Metrics::new(ModelTags { model_id, model_size, dtype, gpu_mode, prompt_version: "SYS/v1".to_owned() }),
        clock: Clock::start(),
        scheduling: SchedulingOptions {
            token_budget_tokens: 65_536,
            prefill_slice_tokens: PROMPT_TOKENS,
            running_max_count: sequences_count,
            waiting_max_count: sequences_count,
            ..SchedulingOptions::default()
        },
        kv_store: None,
        date: None,
        header_grammar: false,
        text_threads: 1,
        preparing_max_count: sequences_count,
        stream_threads: 1,
        memory_budget_bytes: 1 << 30,
        slow_reader: Duration::from_secs(60),
        watchdog: Duration::from_secs(60),
    })
    .expect("the actors start")
}

fn request(index: usize, turn: u32) -> Generate {
    Generate {
        request_id: format!("{index}-{turn}"),
        inputs: vec![ResponseInput::Tokens(vec![TokenId(100); PROMPT_TOKENS])],
        choices_count: 1,
        // They end at different times from the beginning.
        max_tokens: Some(if turn == 0 { 1 + index as u32 % MAX_TOKENS } else { MAX_TOKENS }),
        cuts_at_context: false,
        sampling: Sampling::default(),
        written: WrittenNumbers::default(),
        seed: None,
        form: None,
        stop_strings: Vec::new(),
        ignore_eos: false,
        answer: AnswerOptions::default(),
        tokens: AskedTokens::default(),
        cut: None,
        coalescing: Coalescing { max_ms: 0, max_chars: 0 },
        session: None,
        owner: KeyId::default(),
        cache_salt: None,
        has_cache_key: false,
        priority: 0,
        memory: None,
    }
}

/// So many sequences run until the sender is dropped; how long the steps were arrives at the
/// receiver.
fn run(sequences_count: usize, step_time: Duration, steps_max: usize) -> (mpsc::Receiver<Duration>, oneshot::Sender<()>) {
    let (sender, told) = mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let service = begin(sequences_count, step_time, steps_max, &sender);
            service.loaded().await.expect("the engine loads");
            for index in 0..sequences_count {
                let service = service.clone();
                spawn_local(async move {
                    // Nothing is taken any more when the service is stopped.
                    for turn in 0.. {
                        let Ok(mut accepted) = service.generate(request(index, turn)).await else { break };
                        while accepted.parts.recv().await.is_some() {}
                    }
                });
            }
            // An error says that it was dropped.
            let _ = ended.await;
            service.stop().await;
        });
    });
    (told, end)
}

fn lengths(criterion: &mut Criterion) {
    for (name, steps_max) in [("turn", 1), ("ahead", 2)] {
        let mut group = criterion.benchmark_group(format!("steps/{name}"));
        for (sequences_count, step_ms) in [(1, 2), (32, 2), (256, 5), (4_096, 100)] {
            let (told, _end) = run(sequences_count, Duration::from_millis(step_ms), steps_max);
            group.bench_function(BenchmarkId::from_parameter(sequences_count), |bencher| {
                bencher.iter_custom(|wanted| {
                    while told.try_recv().is_ok() {}
                    (0..wanted).map(|_| told.recv().expect("the engine runs")).sum()
                });
            });
        }
        group.finish();
    }
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(6)).sample_size(20)
}

criterion_group! { name = steps; config = config(); targets = lengths }
criterion_main!(steps);
