//! A server to test: real actors, real sockets, an engine that says what it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use antiphon::actors::service::Service;
use antiphon::actors::{SchedulingOptions, StartOptions, start};
use antiphon::batch::{EngineLimits, TokenId};
use antiphon::clock::Clock;
use antiphon::engine::Engine;
use antiphon::engine::fake::{EngineFault, FakeAnswer, FakeEngine, FakeOptions};
use antiphon::http::observe::{ObservedState, ServerFacts};
use antiphon::http::{Backend, HttpOptions, ServerHandle, serve};
use antiphon::metrics::{Metrics, ModelTags};
use antiphon::prompt::builder::{PromptBuilder, PromptSettings, PromptVersion};
use antiphon::prompt::tokenizer::Tokenizer;

pub(super) const VOCAB_SIZE: usize = 2048;
pub(super) const CONTEXT_TOKENS_MAX: usize = 2048;

/// What a world is to be like.
pub(super) struct Plan {
    /// What the model says, as harmony text.
    pub(super) answer: String,
    /// Says something else for ever instead, as fast as `step_time` lets it.
    pub(super) endless: bool,
    /// How long a step takes.
    pub(super) step_time: Duration,
    /// What goes wrong in the engine.
    pub(super) faults: Vec<EngineFault>,
    /// Most sequences that run at once.
    pub(super) running_max_count: usize,
    /// Most sequences that wait.
    pub(super) waiting_max_count: usize,
    /// Most tokens of a step that are guessed. None, as a rule: what repeats would be over soon.
    pub(super) draft_budget_tokens: usize,
    /// KV blocks of each group.
    pub(super) blocks_count: usize,
    /// What requests may hold in memory.
    pub(super) memory_budget_bytes: u64,
    /// How to serve.
    pub(super) http: HttpOptions,
}

impl Default for Plan {
    fn default() -> Self {
        let tags = ModelTags {
            model_id: "tiny".to_owned(),
            model_size: "tiny".to_owned(),
            dtype: "mxfp4".to_owned(),
            gpu_mode: "none".to_owned(),
            prompt_version: "SYS/v1".to_owned(),
        };
        let http = HttpOptions { port: 0, aliases: vec!["org/alias".to_owned()], ..HttpOptions::new(tags) };
        Self {
            answer: "Hello.".to_owned(),
            endless: false,
            step_time: Duration::ZERO,
            faults: Vec::new(),
            running_max_count: 64,
            waiting_max_count: 256,
            draft_budget_tokens: 0,
            blocks_count: 4096,
            memory_budget_bytes: 1 << 30,
            http,
        }
    }
}

/// A running server.
pub(super) struct World {
    pub(super) service: Service,
    pub(super) backend: Backend,
    pub(super) address: SocketAddr,
    pub(super) server: ServerHandle,
    pub(super) observed: actix_web::web::Data<ObservedState>,
    /// Shares its memory of violations with the engine that computes.
    engine: FakeEngine,
}

impl World {
    /// Opens a server on a free port, and waits until it is ready. Must be called inside an actix
    /// `System`.
    pub(super) async fn open(plan: Plan) -> Self {
        let tokenizer = tokenizer();
        let engine = FakeEngine::new(fake(&plan, &tokenizer));
        let twin = engine.rebuild();
        let metrics = Metrics::new(plan.http.model.clone());
        let clock = Clock::start();
        let settings = PromptSettings { model_id: "tiny".to_owned(), version: PromptVersion::V1, cache_max_bytes: 1 << 20 };
        let service = start(StartOptions {
            engine: Box::new(move || Ok(Box::new(twin.rebuild()) as Box<dyn Engine>)),
            builder: Arc::new(PromptBuilder::new(Arc::clone(&tokenizer), settings)),
            tokenizer,
            metrics: metrics.clone(),
            clock,
            scheduling: SchedulingOptions {
                token_budget_tokens: 512.max(plan.running_max_count),
                prefill_slice_tokens: 512,
                running_max_count: plan.running_max_count,
                waiting_max_count: plan.waiting_max_count,
                waiting_max_tokens: 1 << 20,
                priority_level: Duration::from_secs(10),
                growth_reserve_percent: 25,
                draft_budget_tokens: plan.draft_budget_tokens,
                prefix_cache: true,
                ..SchedulingOptions::default()
            },
            kv_store: None,
            date: Some("2025-11-22".to_owned()),
            header_grammar: false,
            text_threads: 1,
            preparing_max_count: 256,
            stream_threads: 1,
            memory_budget_bytes: plan.memory_budget_bytes,
            // Tests of this room show what happens before the actors lose their patience.
            slow_reader: Duration::from_secs(3600),
            watchdog: Duration::from_secs(30),
        })
        .expect("the actors start");
        service.loaded().await.expect("the fake engine loads");
        let facts = ServerFacts::default();
        let backend = Backend { service: service.clone(), metrics: metrics.clone(), clock };
        let mut observed = ObservedState::new(service.clone(), metrics, clock, facts);
        observed.metrics_access = plan.http.metrics_access;
        let observed = actix_web::web::Data::new(observed);
        let more = move |config: &mut actix_web::web::ServiceConfig| {
            config.route("/panic", actix_web::web::get().to(on_purpose));
            config.route("/stall", actix_web::web::get().to(stall));
        };
        let server = serve(backend.clone(), plan.http, observed.clone(), more).expect("a free port");
        let address = server.addresses()[0];
        Self { service, backend, address, server, observed, engine }
    }

    /// Waits until nothing runs, then checks that nothing was left behind. Ends the test if that
    /// never happens.
    pub(super) async fn assert_empty(&self) {
        self.until(|snapshot| snapshot.requests_active == 0 && snapshot.scheduler.blocks().in_use_count() == 0).await;
        let counts = self.service.snapshot().scheduler;
        assert_eq!(counts.blocks().in_use_count(), 0);
        assert_eq!(counts.waiting_count + counts.prefill_count + counts.decode_count, 0);
        assert_eq!(self.engine.violations(), []);
    }

    /// Waits until the server is as `wanted`.
    pub(super) async fn until(&self, wanted: impl Fn(&antiphon::actors::snapshot::Snapshot) -> bool) {
        while !wanted(&self.service.snapshot()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends everything.
    pub(super) async fn close(self) {
        self.server.stop().await;
        self.service.stop().await;
    }
}

/// A handler with a bug.
async fn on_purpose() -> String {
    panic!("the secret of the inside")
}

/// Set by a test, keeps busy every worker that is asked for `/stall`.
pub(super) static STALL: AtomicBool = AtomicBool::new(false);
/// How many workers are.
pub(super) static STALLED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A handler that computes for long.
async fn stall() -> String {
    STALLED_COUNT.fetch_add(1, Ordering::SeqCst);
    while STALL.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    String::new()
}

/// The embedded model's tokenizer.
pub(super) fn tokenizer() -> Arc<Tokenizer> {
    let json = include_bytes!("../../../models/tiny/tokenizer.json");
    Arc::new(Tokenizer::from_json("tokenizer.json", json, VOCAB_SIZE).expect("the embedded tokenizer is whole"))
}

fn fake(plan: &Plan, tokenizer: &Tokenizer) -> FakeOptions {
    let limits = EngineLimits {
        vocab_size: VOCAB_SIZE,
        context_tokens_max: CONTEXT_TOKENS_MAX,
        global_blocks: plan.blocks_count,
        sliding_blocks: plan.blocks_count,
        step_slices_max: plan.running_max_count,
        ..FakeOptions::default().limits
    };
    let mut tokens = tokenizer.encode_with_control(&plan.answer);
    let stop = tokenizer.control().return_;
    if plan.endless {
        tokens = tokenizer.encode_text(" la").repeat(CONTEXT_TOKENS_MAX);
    }
    FakeOptions { limits, answer: FakeAnswer::Script { tokens, stop }, step_time: plan.step_time, faults: plan.faults.clone() }
}

/// The tokens of a text.
pub(super) fn tokens(text: &str) -> Vec<u32> {
    tokenizer().encode_text(text).into_iter().map(|TokenId(id)| id).collect()
}

/// An answer as the model writes it: an analysis, then the final text.
pub(super) fn harmony(analysis: &str, text: &str) -> String {
    format!("<|channel|>analysis<|message|>{analysis}<|end|><|start|>assistant<|channel|>final<|message|>{text}")
}
