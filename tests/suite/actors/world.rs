//! A server without HTTP: the actors on a fake engine, and the embedded model's tokenizer.

use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use antiphon::actors::messages::{
    Accepted, AnswerOptions, AskedTokens, Coalescing, Finish, FinishKind, Generate, KeyId, Part, PartKind, ResponseInput,
    WrittenNumbers,
};
use antiphon::actors::parts::PartReceiver;
use antiphon::actors::service::Service;
use antiphon::actors::snapshot::Snapshot;
use antiphon::actors::{SchedulingOptions, StartOptions, start};
use antiphon::batch::{Batch, EngineLimits, Sampled, Sampling, TokenId};
use antiphon::clock::Clock;
use antiphon::engine::fake::{EngineFault, FakeAnswer, FakeEngine, FakeOptions};
use antiphon::engine::{Engine, EngineError, EngineFactory};
use antiphon::metrics::{Metrics, ModelTags};
use antiphon::prompt::builder::{PromptBuilder, PromptSettings, PromptVersion};
use antiphon::prompt::tokenizer::Tokenizer;

/// Long enough for a whole test on any machine; only a hang gets here.
const HANG: Duration = Duration::from_secs(120);
/// Long enough for one thing that must come.
const PATIENCE: Duration = Duration::from_secs(20);
const VOCAB_SIZE: usize = 2_048;

/// The embedded model's tokenizer.
pub(super) fn tokenizer() -> Arc<Tokenizer> {
    let json = include_bytes!("../../../models/tiny/tokenizer.json");
    Arc::new(Tokenizer::from_json("tokenizer.json", json, VOCAB_SIZE).expect("the embedded tokenizer is sound"))
}

/// Holds the engine in a step until it is told to go on.
#[derive(Clone, Default)]
pub(super) struct Brake {
    state: Arc<(Mutex<BrakeState>, Condvar)>,
}

#[derive(Default)]
struct BrakeState {
    on: bool,
    held: bool,
}

impl Brake {
    /// From the next step on, the engine stands still.
    pub(super) fn pull(&self) {
        self.state.0.lock().expect("not poisoned").on = true;
    }

    /// The engine goes on.
    pub(super) fn release(&self) {
        self.state.0.lock().expect("not poisoned").on = false;
        self.state.1.notify_all();
    }

    /// Waits until the engine stands still in a step.
    pub(super) async fn holds(&self) {
        wait_until("the engine stands in a step", || self.state.0.lock().expect("not poisoned").held).await;
    }

    fn pass(&self) {
        let mut state = self.state.0.lock().expect("not poisoned");
        while state.on {
            state.held = true;
            state = self.state.1.wait(state).expect("not poisoned");
        }
        state.held = false;
    }
}

struct Braked {
    engine: FakeEngine,
    brake: Brake,
}

impl Engine for Braked {
    fn limits(&self) -> EngineLimits {
        self.engine.limits()
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.engine.begin(batch)
    }

    fn finish(&mut self, sampled: &mut Vec<Sampled>) -> Result<(), EngineError> {
        self.brake.pass();
        self.engine.finish(sampled)
    }
}

/// What differs from test to test.
pub(super) struct Plan {
    pub(super) answer: FakeAnswer,
    pub(super) faults: Vec<EngineFault>,
    pub(super) step_time: Duration,
    pub(super) global_blocks: usize,
    /// Steps that the engine takes before the first of them has ended.
    pub(super) steps_max: usize,
    pub(super) scheduling: SchedulingOptions,
    pub(super) preparing_max_count: usize,
    pub(super) memory_budget_bytes: u64,
    pub(super) slow_reader: Duration,
    pub(super) watchdog: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            answer: FakeAnswer::Hash { seed: 1 },
            faults: Vec::new(),
            step_time: Duration::ZERO,
            global_blocks: 1_024,
            steps_max: 2,
            scheduling: SchedulingOptions {
                token_budget_tokens: 256,
                prefill_slice_tokens: 64,
                running_max_count: 16,
                waiting_max_count: 4_096,
                waiting_max_tokens: 1 << 20,
                prefix_cache: true,
                ..SchedulingOptions::default()
            },
            preparing_max_count: 4_096,
            memory_budget_bytes: 1 << 30,
            slow_reader: HANG,
            watchdog: HANG,
        }
    }
}

impl Plan {
    /// The engine says `text` and then ends the response, whatever it is asked.
    pub(super) fn saying(text: &str) -> Self {
        let tokenizer = tokenizer();
        let answer = FakeAnswer::Script { tokens: tokenizer.encode_text(text), stop: tokenizer.control().return_ };
        Self { answer, ..Self::default() }
    }
}

/// The running server.
pub(super) struct World {
    pub(super) service: Service,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) brake: Brake,
    pub(super) engine: FakeEngine,
}

/// Runs `test` on a server made to `plan`, and checks that nothing is left behind.
pub(super) fn world<F: Future<Output = World>>(plan: Plan, test: impl FnOnce(World) -> F) {
    actix_rt::System::new().block_on(async {
        let world = World::start(plan);
        world.service.loaded().await.expect("the fake engine loads");
        let world = tokio::time::timeout(HANG, test(world)).await.expect("nothing hangs");
        world.brake.release();
        world.is_empty().await;
        assert_eq!(world.engine.violations(), []);
        let stats = world.metrics.stats(world.clock.now());
        let requests = stats.requests;
        assert_eq!(requests.active, 0);
        assert_eq!(requests.total, requests.success + requests.failed + requests.cancelled);
        tokio::time::timeout(HANG, world.service.stop()).await.expect("the engine stops");
    });
}

impl World {
    /// Starts the server; the engine may still load when this returns.
    pub(super) fn start(plan: Plan) -> Self {
        let tokenizer = tokenizer();
        let clock = Clock::start();
        let engine = FakeEngine::new(FakeOptions {
            limits: EngineLimits {
                vocab_size: VOCAB_SIZE,
                global_blocks: plan.global_blocks,
                steps_max: plan.steps_max,
                step_slices_max: 64,
                ..FakeOptions::default().limits
            },
            answer: plan.answer,
            step_time: plan.step_time,
            faults: plan.faults,
        });
        let brake = Brake::default();
        let metrics = Metrics::new(ModelTags {
            model_id: "fake".to_owned(),
            model_size: "tiny".to_owned(),
            dtype: "none".to_owned(),
            gpu_mode: "none".to_owned(),
            prompt_version: "SYS/v1".to_owned(),
        });
        let settings = PromptSettings { model_id: "fake".to_owned(), version: PromptVersion::V1, cache_max_bytes: 1 << 20 };
        let service = start(StartOptions {
            engine: factory(engine.rebuild(), brake.clone()),
            builder: Arc::new(PromptBuilder::new(Arc::clone(&tokenizer), settings)),
            tokenizer: Arc::clone(&tokenizer),
            metrics: metrics.clone(),
            clock,
            scheduling: plan.scheduling,
            kv_store: None,
            date: Some("2025-11-22".to_owned()),
            header_grammar: false,
            text_threads: 2,
            preparing_max_count: plan.preparing_max_count,
            stream_threads: 2,
            memory_budget_bytes: plan.memory_budget_bytes,
            slow_reader: plan.slow_reader,
            watchdog: plan.watchdog,
        })
        .expect("threads start");
        Self { service, tokenizer, metrics, clock, brake, engine }
    }

    /// Asks for a response that is expected to be taken.
    pub(super) async fn accepted(&self, generate: Generate) -> Accepted {
        self.service.generate(generate).await.expect("the request is taken")
    }

    /// Asks for a response and reads it to its end.
    pub(super) async fn answer(&self, generate: Generate) -> Vec<Said> {
        let choices_count = generate.choices_count;
        read(self.accepted(generate).await, choices_count).await
    }

    /// The text of tokens, as the fake engine's random answers may hold any: control tokens left
    /// out.
    pub(super) fn text_of(&self, tokens: &[TokenId]) -> String {
        let text = tokens.iter().filter(|token| !self.tokenizer.is_control(**token));
        let bytes: Vec<u8> = text.flat_map(|token| self.tokenizer.bytes_of(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the server holds nothing any more.
    pub(super) async fn is_empty(&self) {
        wait_until("the server is empty", || {
            let snapshot = self.service.snapshot();
            snapshot.requests_active == 0 && snapshot.streams_active == 0 && snapshot.building_count == 0
        })
        .await;
        holds_nothing(&self.service.snapshot());
    }
}

/// No sequence is left, and no block is held.
pub(super) fn holds_nothing(snapshot: &Snapshot) {
    let counts = snapshot.scheduler;
    assert_eq!((counts.waiting_count, counts.prefill_count, counts.decode_count), (0, 0, 0));
    assert_eq!(counts.blocks().in_use_count(), 0);
}

fn factory(engine: FakeEngine, brake: Brake) -> EngineFactory {
    Box::new(move || Ok(Box::new(Braked { engine: engine.rebuild(), brake: brake.clone() })))
}

/// Waits for something that must come.
pub(super) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "it never came to this: {what}");
}

/// What one choice said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) content: String,
    pub(super) reasoning: String,
    pub(super) tokens: Vec<TokenId>,
    pub(super) pieces: Vec<String>,
    pub(super) finish: Finish,
}

/// Reads a response to its end.
pub(super) async fn read(accepted: Accepted, choices_count: u32) -> Vec<Said> {
    let mut parts = Vec::new();
    let mut receiver = accepted.parts;
    while let Some(part) = receiver.recv().await {
        parts.push(part);
    }
    (0..choices_count).map(|choice| said(choice, &parts)).collect()
}

/// The next part of a response that waits for no other.
pub(super) async fn next(parts: &mut PartReceiver) -> Option<Part> {
    tokio::time::timeout(PATIENCE, parts.recv()).await.expect("it says something, or ends")
}

/// What a choice said in `parts`, after checking their order.
pub(super) fn said(choice: u32, parts: &[Part]) -> Said {
    let parts: Vec<&Part> = parts.iter().filter(|part| part.choice == choice).collect();
    let mut said = Said {
        content: String::new(),
        reasoning: String::new(),
        tokens: Vec::new(),
        pieces: Vec::new(),
        finish: Finish { kind: FinishKind::Cancelled, reasoning_tokens: 0, completion_tokens: 0, thinking_stop: None },
    };
    for (index, part) in parts.iter().enumerate() {
        said.tokens.extend(&part.tokens);
        assert!(part.completion_tokens as usize >= said.tokens.len());
        let is_last = index + 1 == parts.len();
        assert_eq!(matches!(part.kind, PartKind::Finished(_)), is_last, "exactly the last part is the finish: {parts:?}");
        match &part.kind {
            PartKind::Content(text) => {
                said.content.push_str(text);
                said.pieces.push(text.clone());
            }
            PartKind::Reasoning(text) => said.reasoning.push_str(text),
            PartKind::Finished(finish) => said.finish = finish.clone(),
            PartKind::Prompt | PartKind::ToolCallStart { .. } | PartKind::ToolCallArguments { .. } => {}
        }
    }
    assert!(!parts.is_empty(), "choice {choice} never ended");
    assert_eq!(said.tokens.len(), said.finish.completion_tokens as usize, "every token is in a part");
    said
}

/// A request for `max_tokens` tokens after a prompt of plain text.
pub(super) fn plain(request_id: &str, prompt: &str, max_tokens: u32) -> Generate {
    Generate {
        request_id: request_id.to_owned(),
        inputs: vec![ResponseInput::Text(prompt.to_owned())],
        choices_count: 1,
        max_tokens: Some(max_tokens),
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

/// A request whose prompt is this many tokens, different for every `salt`.
pub(super) fn long(request_id: &str, prompt_tokens: u32, salt: u32, max_tokens: u32) -> Generate {
    let tokens = (0..prompt_tokens).map(|i| TokenId((i * 7 + salt * 31) % 1_000)).collect();
    Generate { inputs: vec![ResponseInput::Tokens(tokens)], ..plain(request_id, "", max_tokens) }
}

/// A small generator of numbers, for tests that want many different ones.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // Source: Knuth's MMIX constants for a linear congruential generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
