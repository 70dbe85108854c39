//! `antiphon inspect`: what a model is, what it would take, and what this machine has; computes
//! nothing, and downloads no weights.

mod memory;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use antiphon_kernels::cpu::Isa;
use antiphon_kernels::cuda;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::failure::{CommandFailure, print};
use super::options::{serve_options, size};
use super::serve::{layers, setting_args, start_log, variable};
use crate::app::{Model, ModelError};
use crate::engine::checkpoint::{CheckpointFiles, FileHead, Outline};
use crate::engine::config::ModelConfig;
use crate::prompt::tokenizer::Tokenizer;
use crate::source::{Glance, HubSettings, ModelContent, ModelFiles, ModelHeads, glance};

/// The settings that change what a model takes.
const SETTINGS: [&str; 13] = [
    "model",
    "revision",
    "model_links",
    "profile",
    "device",
    "gpu_memory_utilization",
    "cuda_prefill",
    "tensor_parallel",
    "cpu_math",
    "cpu_dense",
    "kv_bytes",
    "running_max_count",
    "token_budget_tokens",
];

/// The command's options.
pub(super) fn command() -> Command {
    let tensors = Arg::new("tensors").long("tensors").action(ArgAction::SetTrue).help("List every tensor");
    let device_memory = Arg::new("device_memory").long("device-memory").value_name("SIZE").help(
        "Plan for a GPU with so much free memory (80GiB), which need not be here; with --tensor-parallel for each of so many",
    );
    Command::new("inspect")
        .about("Show a model's config, tensors, memory and tokenizer, and this machine's devices")
        .args(setting_args(|setting| SETTINGS.contains(&setting.name)))
        .args([device_memory, tensors])
}

/// Prints what there is to know.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let layers = layers(matches, &variable)?;
    let options = serve_options(&layers, &variable)?;
    let _log = start_log(&layers)?;
    let device_memory = match matches.get_one::<String>("device_memory") {
        None => None,
        Some(text) => Some(size(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
            CommandFailure::Usage(format!("--device-memory is `{text}`; expected a size above 0, such as 80GiB"))
        })?),
    };
    let hub = HubSettings::from_environment().map_err(anyhow::Error::from)?;
    let hub = HubSettings { revision: options.revision.clone(), ..hub };
    let started = Instant::now();
    let mut page = Page::default();
    let (model, heads);
    let (outline, tokenizer): (&Outline, Option<&Tokenizer>) =
        match glance(Some(&options.model), &hub).map_err(anyhow::Error::from)? {
            Glance::Here(files) => {
                model = Model::open(&files, options.model_links).map_err(anyhow::Error::from)?;
                describe_files(&mut page, &files);
                (&model.checkpoint, Some(&model.tokenizer))
            }
            Glance::Away(found) => {
                describe_download(&mut page, &found);
                heads = read_heads(found)?;
                (&heads, None)
            }
        };
    page.line("opened in", &format!("{:.0} ms", started.elapsed().as_secs_f64() * 1e3));
    for warning in outline.warnings() {
        page.line("warning", warning);
    }
    describe_config(&mut page, outline.config());
    memory::describe(&mut page, outline, &options, device_memory)?;
    describe_tokens(&mut page, outline, tokenizer);
    describe_machine(&mut page);
    if matches.get_flag("tensors") {
        list_tensors(&mut page, outline);
    }
    print(&page.0)
}

/// What the beginnings of a model's files say.
fn read_heads(heads: ModelHeads) -> Result<Outline, CommandFailure> {
    let place = heads.name;
    let head = |file: crate::source::FetchedHead| FileHead {
        name: file.name,
        bytes: Arc::from(file.bytes),
        file_bytes: usize::try_from(file.file_bytes).unwrap_or(usize::MAX),
    };
    let files = CheckpointFiles::heads(heads.files.into_iter().map(head).collect());
    let wrong = |error| ModelError::Checkpoint { place, error: Box::new(error) };
    Ok(Outline::read(&files).map_err(wrong).map_err(anyhow::Error::from)?)
}

/// Lines of a name and what there is to say under it.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, text: &str) {
        writeln!(self.0, "{name:18} {text}").expect("a String takes everything");
    }
}

fn describe_files(page: &mut Page, files: &ModelFiles) {
    let place = match &files.content {
        ModelContent::Embedded(_) => "in this binary".to_owned(),
        ModelContent::Directory(path) => path.display().to_string(),
    };
    page.line("model", &format!("{}, size {}, {place}", files.model_id, files.model_size));
}

fn describe_download(page: &mut Page, heads: &ModelHeads) {
    page.line("model", &format!("{}, size {}, on the hub at {}", heads.model_id, heads.model_size, heads.commit));
    let weights = heads.files.iter().filter(|file| file.name.ends_with(".safetensors")).count();
    let bytes = mebibytes(heads.download_bytes);
    page.line("download", &format!("{bytes} MiB, {weights} of the files weights; headers alone were read, nothing is stored"));
}

fn describe_config(page: &mut Page, config: &ModelConfig) {
    use crate::batch::KvGroup::{Global, Sliding};
    let (full, sliding) = (config.layers_of(Global), config.layers_of(Sliding));
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

fn describe_tokens(page: &mut Page, outline: &Outline, tokenizer: Option<&Tokenizer>) {
    use crate::batch::TokenId;
    let Some(tokenizer) = tokenizer else {
        let ends: Vec<String> = outline.eos_tokens().into_iter().map(|end| end.0.to_string()).collect();
        page.line("tokenizer", &format!("not downloaded; ends: {}", ends.join(", ")));
        return;
    };
    let ids = (0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX)).map(TokenId);
    let (mut tokens, mut control) = (0_usize, 0_usize);
    for id in ids {
        tokens += usize::from(!tokenizer.bytes_of(id).is_empty());
        control += usize::from(tokenizer.is_control(id));
    }
    let ends: Vec<String> = outline
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

fn list_tensors(page: &mut Page, outline: &Outline) {
    page.0.push('\n');
    for tensor in outline.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let line = format!("{:60} {:5} {:20} {}", tensor.name, tensor.dtype, shape.join(" x "), tensor.file);
        page.0.push_str(line.trim_end());
        page.0.push('\n');
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
