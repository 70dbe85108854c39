//! The text work of a request: tokens per second and bytes per second, on OpenAI's own vocabulary.
//!
//! Before the measurements proper it prints, for twelve characters, the time for a megabyte of one
//! of them and the time for two by that for one: 2 if the tokenizer is linear.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::batch::TokenId;
use antiphon::prompt::builder::{KeyParameters, PromptBuilder, PromptSettings, PromptVersion};
use antiphon::prompt::conversation::{Conversation, Message};
use antiphon::prompt::detokenizer::Detokenizer;
use antiphon::prompt::harmony::parser::{Parser, ParserRules, ParserStart};
use antiphon::prompt::stop::{StopSet, StopStrings};
use antiphon::prompt::tokenizer::Tokenizer;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/suite/prompt/o200k.rs"]
mod o200k;

const CHARACTERS: [&str; 12] = ["a", " ", "\n", "0", "안", "😀", "A", "-", "\t", "é", "中", "\r"];
const PROSE: &str = include_str!("../docs/architecture.md");

/// The shortest of five times that encoding `text` takes.
fn shortest(tokenizer: &Tokenizer, text: &str) -> Duration {
    let times = (0..5).map(|_| {
        let started = Instant::now();
        black_box(tokenizer.encode_text(black_box(text)));
        started.elapsed()
    });
    times.min().unwrap_or_default()
}

fn growth(_: &mut Criterion) {
    let tokenizer = o200k::tokenizer();
    for character in CHARACTERS {
        let text = character.repeat(2_000_000 / character.len());
        let half = text.floor_char_boundary(1_000_000);
        let (one, two) = (shortest(&tokenizer, &text[..half]), shortest(&tokenizer, &text));
        let ratio = two.as_secs_f64() / one.as_secs_f64();
        eprintln!("1 MB of {character:?}: {:.1} ms; 2 MB take {ratio:.2} times as long", one.as_secs_f64() * 1e3);
    }
}

/// Prose of about `bytes` bytes.
fn prose(bytes: usize) -> String {
    PROSE.repeat(bytes / PROSE.len() + 1)
}

fn tokenize(criterion: &mut Criterion) {
    let tokenizer = o200k::tokenizer();
    let text = prose(100_000);
    let mut group = criterion.benchmark_group("prompt");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode prose", |bencher| bencher.iter(|| tokenizer.encode_text(black_box(&text))));
    group.bench_function("encode prose with control tokens", |bencher| {
        bencher.iter(|| tokenizer.encode_with_control(black_box(&text)));
    });
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let turn = |index: usize| {
        let answer = Message::Assistant { content: Some(prose(2_000)), reasoning: Some(prose(500)), tool_calls: Vec::new() };
        [Message::User { content: format!("Question {index}: {}", prose(500)) }, answer]
    };
    let conversation = Conversation { messages: (0..10).flat_map(turn).collect(), ..Conversation::default() };
    let mut group = criterion.benchmark_group("prompt");
    for (name, cache_max_bytes) in [("build 20 messages", 0), ("build 20 messages again", 1 << 24)] {
        let settings = PromptSettings { model_id: "gpt-oss-20b".into(), version: PromptVersion::V1, cache_max_bytes };
        let builder = PromptBuilder::new(o200k::tokenizer(), settings);
        let build =
            || builder.build(black_box(&conversation), &KeyParameters::default(), "2025-11-22").map(|built| built.tokens);
        group.throughput(Throughput::Elements(build().map_or(0, |tokens| tokens.len() as u64)));
        group.bench_function(name, |bencher| bencher.iter(build));
    }
    group.finish();
}

fn answer(criterion: &mut Criterion) {
    let tokenizer = o200k::tokenizer();
    let text = prose(20_000) + "안녕하세요 👩‍👩‍👧";
    let answer =
        format!("<|channel|>analysis<|message|>{text}<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>");
    let tokens: Vec<TokenId> = tokenizer.encode_with_control(&answer);
    let mut group = criterion.benchmark_group("prompt");
    group.throughput(Throughput::Elements(tokens.len() as u64));
    group.bench_function("parse an answer", |bencher| {
        let mut events = Vec::new();
        bencher.iter(|| {
            let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader, ParserRules::default());
            for token in &tokens {
                events.clear();
                parser.push(*token, &mut events);
                black_box(&events);
            }
        });
    });
    group.bench_function("detokenize", |bencher| {
        let mut text = String::new();
        bencher.iter(|| {
            let mut detokenizer = Detokenizer::new();
            for token in &tokens {
                text.clear();
                detokenizer.push(tokenizer.bytes_of(*token), &mut text);
                black_box(&text);
            }
        });
    });
    let stops: Vec<String> = (0..10_000).map(|index| format!("stop {index}")).collect();
    for (name, stops) in [("search 4 stop strings", &stops[..4]), ("search 10,000 stop strings", &stops[..])] {
        let set = Arc::new(StopSet::new(stops));
        group.bench_function(name, |bencher| {
            let mut out = String::new();
            bencher.iter(|| {
                let mut search = StopStrings::new(Arc::clone(&set));
                for token in &tokens {
                    out.clear();
                    black_box(search.push(&String::from_utf8_lossy(tokenizer.bytes_of(*token)), &mut out));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, growth, tokenize, build, answer);
criterion_main!(benches);
