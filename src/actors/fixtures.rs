//! What this room's own tests have in common.

use std::panic::Location;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::timeout;

use crate::actors::compiler::Compiler;
use crate::actors::masks::MaskThreads;
use crate::actors::messages::{AnswerOptions, AskedTokens, Coalescing, Generate, KeyId, ResponseInput, WrittenNumbers};
use crate::actors::options::{SchedulingOptions, StartOptions};
use crate::actors::prepare::TextWork;
use crate::batch::{EngineLimits, Sampling};
use crate::clock::Clock;
use crate::engine::fake::{FakeEngine, FakeOptions};
use crate::metrics::{Metrics, ModelTags};
use crate::prompt::builder::{PromptBuilder, PromptSettings, PromptVersion};
use crate::prompt::constraint::{Grammars, HeaderTables};
use crate::prompt::tokenizer::Tokenizer;

/// What must come, on any machine: a bound that only a hang reaches, and that says where.
#[track_caller]
pub(super) fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = Location::caller();
    async move { timeout(Duration::from_secs(20), what).await.unwrap_or_else(|_| panic!("what {place} waits for never came")) }
}

/// Rows of the embedded model's vocabulary.
pub(super) const VOCAB_SIZE: usize = 2_048;

/// The embedded model's tokenizer.
pub(super) fn tokenizer() -> Arc<Tokenizer> {
    static LOADED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let json = include_bytes!("../../models/tiny/tokenizer.json");
        Arc::new(Tokenizer::from_json("tokenizer.json", json, VOCAB_SIZE).unwrap())
    });
    Arc::clone(&LOADED)
}

/// A builder of prompts for it.
pub(super) fn builder() -> Arc<PromptBuilder> {
    let settings = PromptSettings { model_id: "fake".to_owned(), version: PromptVersion::V1, cache_max_bytes: 1 << 20 };
    Arc::new(PromptBuilder::new(tokenizer(), settings))
}

/// The text work of requests to it.
pub(super) fn text_work() -> TextWork {
    let grammars = Arc::new(Grammars::new(tokenizer()));
    let masks = MaskThreads::start(&grammars).unwrap();
    TextWork {
        builder: builder(),
        tokenizer: tokenizer(),
        date: Some("2025-11-22".to_owned()),
        headers: Arc::new(HeaderTables::new(Arc::clone(&grammars))),
        header_grammar: false,
        compiler: Arc::new(Compiler::new(grammars)),
        masks,
    }
}

/// Metrics at zero.
pub(super) fn metrics() -> Metrics {
    Metrics::new(ModelTags {
        model_id: "fake".to_owned(),
        model_size: "tiny".to_owned(),
        dtype: "none".to_owned(),
        gpu_mode: "none".to_owned(),
        prompt_version: "SYS/v1".to_owned(),
    })
}

/// A server on a fake engine.
pub(super) fn start_options() -> StartOptions {
    let limits = EngineLimits { vocab_size: VOCAB_SIZE, ..FakeOptions::default().limits };
    let engine = FakeEngine::new(FakeOptions { limits, ..FakeOptions::default() });
    StartOptions {
        engine: Box::new(move || Ok(Box::new(engine.rebuild()))),
        builder: builder(),
        tokenizer: tokenizer(),
        metrics: metrics(),
        clock: Clock::start(),
        scheduling: SchedulingOptions {
            token_budget_tokens: 256,
            prefill_slice_tokens: 64,
            running_max_count: 16,
            waiting_max_count: 64,
            waiting_max_tokens: 1 << 20,
            prefix_cache: true,
            ..SchedulingOptions::default()
        },
        kv_store: None,
        date: Some("2025-11-22".to_owned()),
        header_grammar: false,
        text_threads: 1,
        preparing_max_count: 64,
        stream_threads: 1,
        slow_reader: Duration::from_secs(60),
        memory_budget_bytes: 1 << 30,
        watchdog: Duration::from_secs(60),
    }
}

/// A request.
pub(super) fn generate(input: ResponseInput) -> Generate {
    Generate {
        request_id: "a".to_owned(),
        inputs: vec![input],
        choices_count: 1,
        max_tokens: Some(10),
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
