//! `antiphon inspect`: what a model is, what it would take, and what this machine has; computes nothing.

use std::fmt::Write as _;
use std::time::Instant;

use antiphon_kernels::cpu::Isa;
use antiphon_kernels::cuda;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::failure::{Failure, print};
use super::options::serve_options;
use super::serve::{layers, setting_args, start_log, variable};
use crate::app::{Model, ServeOptions};
use crate::engine::config::ModelConfig;
use crate::engine::cpu::{CpuOptions, MemoryPlan};
use crate::source::{HubSettings, ModelContent, ModelFiles, TerminalProgress, resolve};

/// The settings that change what a model takes.
const SETTINGS: [&str; 9] = [
    "model",
    "revision",
    "model_links",
    "profile",
    "cpu_math",
    "cpu_dense",
    "kv_bytes",
    "running_max_count",
    "token_budget_tokens",
];

/// The command's options.
pub(super) fn command() -> Command {
    let tensors = Arg::new("tensors").long("tensors").action(ArgAction::SetTrue).help("List every tensor");
    Command::new("inspect")
        .about("Show a model's config, tensors, memory and tokenizer, and this machine's devices")
        .args(setting_args(|setting| SETTINGS.contains(&setting.name)))
        .arg(tensors)
}

/// Prints what there is to know.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let layers = layers(matches, &variable)?;
    let options = serve_options(&layers, &variable)?;
    let _log = start_log(&layers)?;
    let hub = HubSettings::from_environment().map_err(anyhow::Error::from)?;
    let hub = HubSettings { revision: options.revision.clone(), ..hub };
    let mut progress = TerminalProgress::default();
    let files = resolve(Some(&options.model), &hub, &mut |transfer| progress.show(transfer)).map_err(anyhow::Error::from)?;
    drop(progress);
    let started = Instant::now();
    let model = Model::open(&files, options.model_links).map_err(anyhow::Error::from)?;
    let opened = started.elapsed();

    let mut page = Page::default();
    describe_files(&mut page, &files, &model, opened.as_secs_f64());
    describe_config(&mut page, model.checkpoint.config());
    describe_memory(&mut page, &model, &options);
    describe_tokenizer(&mut page, &model);
    describe_machine(&mut page);
    if matches.get_flag("tensors") {
        list_tensors(&mut page, &model);
    }
    print(&page.0)
}

/// Lines of a name and what there is to say under it.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, text: &str) {
        writeln!(self.0, "{name:18} {text}").expect("a String takes everything");
    }
}

fn describe_files(page: &mut Page, files: &ModelFiles, model: &Model, seconds: f64) {
    let place = match &files.content {
        ModelContent::Embedded(_) => "in this binary".to_owned(),
        ModelContent::Directory(path) => path.display().to_string(),
    };
    page.line("model", &format!("{}, size {}, {place}", files.model_id, files.model_size));
    page.line("opened in", &format!("{:.0} ms", seconds * 1e3));
    for warning in model.checkpoint.warnings() {
        page.line("warning", warning);
    }
}

fn describe_config(page: &mut Page, config: &ModelConfig) {
    use crate::batch::KvGroup::{Full, Sliding};
    let (full, sliding) = (config.layers_of(Full), config.layers_of(Sliding));
    page.line("parameters", &format!("{:.1} million", config.parameters() as f64 / 1e6));
    page.line(
        "layers",
        &format!("{}: {full} full, {sliding} sliding over {} tokens", full + sliding, config.sliding_window_tokens),
    );
    page.line("hidden", &config.hidden.to_string());
    page.line("attention", &format!("{} heads of {}, {} for keys and values", config.heads, config.head_dim, config.kv_heads));
    let experts = format!("{}, {} a token, {} wide", config.experts, config.experts_per_token, config.intermediate);
    page.line("experts", &experts);
    page.line("vocabulary", &format!("{} rows", config.vocab_size));
    page.line("context", &format!("{} tokens", config.context_tokens_max));
}

fn describe_memory(page: &mut Page, model: &Model, options: &ServeOptions) {
    let batch = &options.profile.batch;
    let (running, budget) = (batch.running_max_count.count(), batch.token_budget_tokens.count());
    let config = model.checkpoint.config();
    let layout = CpuOptions::within(config, options.cpu_math, options.kv_bytes.unwrap_or(0), running, budget);
    let layout = CpuOptions { dense: options.cpu_dense, ..layout };
    let plan = MemoryPlan::of(&model.checkpoint, &layout);
    let tensors = model.checkpoint.tensors();
    let bytes: usize = tensors.iter().map(|tensor| tensor.bytes).sum();
    page.line("tensors", &format!("{}, {} MiB", tensors.len(), mebibytes(bytes as u64)));
    let label = if options.kv_bytes.is_some() { "memory" } else { "memory at least" };
    page.line(label, &plan.to_string());
    let tokens = layout.full_blocks * layout.block_tokens;
    page.line("KV holds", &format!("{tokens} tokens in {} blocks of {}", layout.full_blocks, layout.block_tokens));
}

fn describe_tokenizer(page: &mut Page, model: &Model) {
    use crate::batch::TokenId;
    let tokenizer = &model.tokenizer;
    let ids = (0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX)).map(TokenId);
    let (mut tokens, mut control) = (0_usize, 0_usize);
    for id in ids {
        tokens += usize::from(!tokenizer.bytes_of(id).is_empty());
        control += usize::from(tokenizer.is_control(id));
    }
    let ends: Vec<String> = model
        .checkpoint
        .eos_tokens()
        .into_iter()
        .map(|end| format!("{} ({})", String::from_utf8_lossy(tokenizer.bytes_of(end)), end.0))
        .collect();
    page.line("tokenizer", &format!("{tokens} tokens, {control} of them control tokens; ends: {}", ends.join(", ")));
}

fn describe_machine(page: &mut Page) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sets: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    page.line("CPU", &format!("{threads} threads, computes with {} (has {})", Isa::best().name(), sets.join(", ")));
    if let Some(bytes) = available_memory() {
        page.line("memory free", &format!("{} MiB", mebibytes(bytes)));
    }
    match cuda::probe() {
        Ok(found) => {
            for (ordinal, device) in found.devices.iter().enumerate() {
                let (major, minor) = device.compute_capability;
                let memory = mebibytes(device.memory_bytes as u64);
                page.line(
                    &format!("cuda:{ordinal}"),
                    &format!("{}, {memory} MiB, compute capability {major}.{minor}", device.name),
                );
            }
        }
        Err(reason) => page.line("GPU", &format!("none: {reason}")),
    }
}

/// What the kernel thinks can still be taken without swapping; Linux alone says it.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn list_tensors(page: &mut Page, model: &Model) {
    page.0.push('\n');
    for tensor in model.checkpoint.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let line = format!("{:60} {:5} {:20} {}", tensor.name, tensor.dtype, shape.join(" x "), tensor.file);
        page.0.push_str(line.trim_end());
        page.0.push('\n');
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
