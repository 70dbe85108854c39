//! From what was given to what a server is told: every value read and checked, the profile
//! overlaid.

use std::path::PathBuf;

use super::failure::CommandFailure;
use super::layers::{Given, Layers, Origin, SettingError};
use super::settings::{API_KEY_VARIABLE, SETTINGS, Setting};
use crate::app::{
    AllowedOrigin, Dialect, KeySources, KeyTexts, KvStoreOptions, KvStorePlace, MetricsAccess, ResponseStorePlace, Secret,
    ServeOptions, ShownValue, read_key_file,
};
use crate::client::BaseUrl;
use crate::cost::{CostError, CostModel, built_in_names};
use crate::engine::checkpoint::LinkPolicy;
use crate::engine::cpu::{Format, Isa, Math};
use crate::engine::cuda::MatrixInstruction;
use crate::engine::place::Device;
use crate::profile::{Profile, ProfileError};

/// Why there are no options.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionsError {
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The profile makes no sense.
    #[error("{error}; given by {origin}")]
    Profile { error: ProfileError, origin: Origin },
    /// The cost model makes no sense.
    #[error("{error}; given by {origin}")]
    CostModel { error: CostError, origin: Origin },
    /// What was set over the profile does not agree with the rest of it.
    #[error("profile {name} with what was set over it: {message}")]
    Disagreement { name: String, message: String },
    /// A file of keys cannot be used.
    #[error("{name} {path}: {message}; expected a file with a key a line; given by {origin}")]
    KeyFile { name: &'static str, path: String, message: String, origin: Origin },
    /// The variable that holds a key holds none.
    #[error("{API_KEY_VARIABLE} is set and empty, which would leave the server open; expected a key, or no such variable")]
    EmptyKey,
}

impl From<OptionsError> for CommandFailure {
    fn from(error: OptionsError) -> Self {
        if error.is_usage() { Self::Usage(error.to_string()) } else { Self::Failed(error.into()) }
    }
}

impl OptionsError {
    /// Whether the command line is to blame.
    fn is_usage(&self) -> bool {
        let origin = match self {
            Self::Setting(SettingError { origin, .. })
            | Self::Profile { origin, .. }
            | Self::CostModel { origin, .. }
            | Self::KeyFile { origin, .. } => origin,
            Self::Disagreement { .. } | Self::EmptyKey => return false,
        };
        matches!(origin, Origin::Flag(_))
    }
}

/// What `cpu_isa` may be.
const ISAS: &str = "auto, or portable, avx2, avx-vnni, avx-512 or amx where the CPU has it";

/// The options of a server.
pub(super) fn serve_options(layers: &Layers, variable: &dyn Fn(&str) -> Option<String>) -> Result<ServeOptions, OptionsError> {
    let profile = profile(layers)?;
    let (KeyTexts { users: api_keys, admins: admin_keys }, key_sources) = keys(layers, variable)?;
    Ok(ServeOptions {
        model: layers.read("model", "a model", non_empty)?,
        revision: layers.read("revision", "a branch, a tag or a commit", non_empty)?,
        model_links: layers.read("model_links", "inside or anywhere", model_links)?,
        served_model_names: layers.list("served_model_name"),
        host: layers.read("host", "an address such as 127.0.0.1", non_empty)?,
        port: layers.read("port", "a whole number from 0 to 65535", |text| text.parse().ok())?,
        allowed_hosts: layers.list("allowed_host"),
        cors_origins: layers.read("cors_origin", "origins such as https://example.org, or * for every page", origins)?,
        http_workers_count: threads(layers, "http_workers")?,
        text_threads_count: threads(layers, "text_threads")?,
        stream_threads_count: threads(layers, "stream_threads")?,
        api_keys,
        admin_keys,
        key_sources,
        metrics_access: layers.read("metrics_access", "key, admin or open", metrics_access)?,
        connections_max_count: connections(layers, "connections_max_count")?,
        address_connections_max_count: connections(layers, "address_connections_max_count")?,
        memory_budget_bytes: layers.read("memory_budget", "auto or a size from 64MiB", |text| {
            automatic(text, |text| size_within(text, 64 << 20, u64::MAX))
        })?,
        body_max_bytes: layers
            .read("body_max_bytes", "a size from 1KiB to 1GiB", |text| size_within(text, 1 << 10, 1 << 30))?,
        keep_alive_seconds: layers.read("keep_alive_seconds", "a whole number from 1 to 3600", |text| within(text, 1, 3600))?,
        sse_dialect: layers.read("sse_dialect", Dialect::NAMES, Dialect::named)?,
        response_store: layers.read("response_store", "memory, off or the path of a file", store_place)?,
        response_store_bytes: layers
            .read("response_store_bytes", "a size from 1MiB to 1TiB", |text| size_within(text, 1 << 20, 1 << 40))?,
        response_store_days: layers
            .read("response_store_days", "a whole number from 1 to 36500", |text| within(text, 1, 36_500))?,
        otlp_endpoint: layers.read("otlp_endpoint", "off or an address such as http://127.0.0.1:4318", collector)?,
        device: layers.read("device", "auto, cpu, cuda:N or sim", computing_device)?,
        simulated: simulated(layers)?,
        threads: layers
            .read("threads", "auto or a whole number from 1 to 1024", |text| automatic(text, |text| within(text, 1, 1024)))?,
        cpu_math: layers.read("cpu_math", "exact, int16 or fast", cpu_math)?,
        cpu_dense: layers.read("cpu_dense", "bf16 or int8", cpu_dense)?,
        cpu_isa: layers.read("cpu_isa", ISAS, |text| automatic(text, isa))?,
        keep_packed_weights: layers.read("keep_packed_weights", "on or off", switch)?,
        gpu_memory_utilization: layers.read("gpu_memory_utilization", "a number above 0, at most 1", |text| {
            text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0)
        })?,
        cuda_prefill: layers.read("cuda_prefill", "mma or wgmma", cuda_prefill)?,
        tensor_parallel: layers.read("tensor_parallel", "a whole number from 1 to 64", |text| within(text, 1, 64))?,
        kv_bytes: layers.read("kv_bytes", "auto or a size from 1MiB", |text| {
            automatic(text, |text| size_within(text, 1 << 20, u64::MAX))
        })?,
        kv_store: kv_store(layers)?,
        system_date: layers.read("system_date", "today or a date such as 2026-11-22", date)?,
        prompt_version: layers.read("prompt_version", "SYS/v0, SYS/v1 or SYS/v2", prompt_version)?,
        prompt_cache_bytes: layers.read("prompt_cache_bytes", "a size to 1TiB", |text| size_within(text, 0, 1 << 40))?,
        header_grammar: layers.read("header_grammar", "on or off", switch)?,
        prefix_cache: layers.read("prefix_cache", "on or off", switch)?,
        drain_delay_seconds: layers.read("drain_delay_seconds", "a whole number to 86400", |text| within(text, 0, 86_400))?,
        drain_timeout_seconds: layers
            .read("drain_timeout_seconds", "a whole number to 86400", |text| within(text, 0, 86_400))?,
        interrupt_stops: true,
        watchdog_seconds: layers.read("watchdog_seconds", "a whole number from 1 to 86400", |text| within(text, 1, 86_400))?,
        shown: shown(layers, &profile),
        profile,
    })
}

/// The device that computes nothing.
const SIM: &str = "sim";

/// The device of that name; one that is simulated takes the place of the CPU's.
fn computing_device(text: &str) -> Option<Device> {
    if text == SIM { Some(Device::Cpu) } else { device(text) }
}

/// The cost model of a device that is simulated.
fn simulated(layers: &Layers) -> Result<Option<CostModel>, OptionsError> {
    let (device, Given { text, origin }) = (layers.value("device").text, layers.value("cost_model"));
    let wrong = |expected: String| {
        let (name, value, origin) = ("cost_model", text.clone(), origin.clone());
        Err(OptionsError::Setting(SettingError { name, value, expected, origin }))
    };
    match (device.trim() == SIM, text.as_str()) {
        (false, "none") => Ok(None),
        (true, "none") => wrong(format!("the model that --device sim takes: {}, or a .toml file", built_in_names().join(", "))),
        (false, _) => wrong("--device sim beside it, for no other device waits as a cost model says".to_owned()),
        (true, text) => CostModel::load(text).map(Some).map_err(|error| OptionsError::CostModel { error, origin }),
    }
}

/// Where evicted blocks go.
fn kv_store(layers: &Layers) -> Result<Option<KvStoreOptions>, SettingError> {
    let offload_bytes = layers.read("kv_offload_bytes", "0 or a size from 1MiB", |text| {
        if text == "0" { Some(0) } else { size_within(text, 1 << 20, u64::MAX) }
    })?;
    let store_bytes = layers.read("kv_store_bytes", "a size from 1MiB", |text| size_within(text, 1 << 20, u64::MAX))?;
    let Given { text: path, origin } = layers.value("kv_store");
    let options = match (path.as_str(), offload_bytes) {
        ("none", 0) => return Ok(None),
        ("none", bytes_max) => KvStoreOptions { place: KvStorePlace::Memory, bytes_max },
        (path, _) => KvStoreOptions { place: KvStorePlace::File(PathBuf::from(path)), bytes_max: store_bytes },
    };
    let wrong = |expected: &str| {
        Err(SettingError { name: "kv_store", value: path.clone(), expected: expected.to_owned(), origin: origin.clone() })
    };
    if path != "none" && offload_bytes > 0 {
        return wrong("no kv_offload_bytes beside a file, which the system keeps in memory while there is room");
    }
    if !layers.read("prefix_cache", "on or off", switch)? {
        return wrong("prefix_cache on beside it, for blocks are found by the prefixes that they hold");
    }
    Ok(Some(options))
}

/// The address of a collector; `None` is none.
fn collector(text: &str) -> Option<Option<String>> {
    if text == "off" {
        return Some(None);
    }
    BaseUrl::parse(text).ok().map(|_| Some(text.to_owned()))
}

/// A count of connections.
fn connections(layers: &Layers, name: &'static str) -> Result<usize, SettingError> {
    layers.read(name, "a whole number from 1 to 1048576", |text| within(text, 1, 1 << 20))
}

/// A count of threads.
fn threads(layers: &Layers, name: &'static str) -> Result<usize, SettingError> {
    layers.read(name, "a whole number from 1 to 1024", |text| within(text, 1, 1024))
}

/// The profile with what was set over it.
fn profile(layers: &Layers) -> Result<Profile, OptionsError> {
    let Given { text, origin } = layers.value("profile");
    let mut profile = Profile::load(&text).map_err(|error| OptionsError::Profile { error, origin })?;
    for setting in SETTINGS {
        let (Some(section), Some(given)) = (setting.section, layers.given(setting)) else { continue };
        let Given { text, origin } = given;
        let number = |text: &str| {
            let whole = text.parse().ok().map(toml::Value::Integer);
            whole.or_else(|| text.parse().ok().map(toml::Value::Float))
        };
        let wrong =
            |expected: String| SettingError { name: setting.name, value: text.clone(), expected, origin: origin.clone() };
        let value = number(text.trim()).ok_or_else(|| wrong("a number".to_owned()))?;
        profile = profile.overlaid(section, setting.name, value).map_err(|message| {
            // The profile says "found 0, expected a whole number ...".
            wrong(message.split_once("expected ").map_or_else(|| message.clone(), |(_, expected)| expected.to_owned()))
        })?;
    }
    let checked = profile.check().map_err(|message| OptionsError::Disagreement { name: profile.name.clone(), message });
    checked.map(|()| profile)
}

/// The key of the environment and those of the files, and where to read them again.
fn keys(layers: &Layers, variable: &dyn Fn(&str) -> Option<String>) -> Result<(KeyTexts, KeySources), OptionsError> {
    let mut fixed = KeyTexts::default();
    match variable(API_KEY_VARIABLE).map(|key| key.trim().to_owned()) {
        // A server that was meant to be locked must not start open.
        Some(key) if key.is_empty() => return Err(OptionsError::EmptyKey),
        key => fixed.users.extend(key.map(Secret::new)),
    }
    let mut texts = fixed.clone();
    let mut sources = KeySources { fixed, users_file: None, admins_file: None };
    let files = [
        ("api_key_file", &mut texts.users, &mut sources.fixed.users, &mut sources.users_file),
        ("admin_key_file", &mut texts.admins, &mut sources.fixed.admins, &mut sources.admins_file),
    ];
    for (name, texts, fixed, file) in files {
        let Given { text: path, origin } = layers.value(name);
        if path == "none" {
            continue;
        }
        let place = PathBuf::from(&path);
        let keys = read_key_file(&place).map_err(|message| OptionsError::KeyFile { name, path, message, origin })?;
        texts.extend(keys.iter().cloned());
        // A pipe can be read once.
        if place.is_file() { *file = Some(place) } else { fixed.extend(keys) }
    }
    Ok((texts, sources))
}

/// Every setting as it took effect, and where from.
fn shown(layers: &Layers, profile: &Profile) -> Vec<ShownValue> {
    let tables = profile.tables();
    let show = |setting: &Setting| {
        let Given { text, origin } = match (layers.given(setting), setting.section) {
            (Some(given), _) => given.clone(),
            (None, Some(section)) => {
                Given { text: tables[section][setting.name].to_string(), origin: Origin::Profile(profile.name.clone()) }
            }
            (None, None) => layers.value(setting.name),
        };
        ShownValue { section: setting.section, name: setting.name, value: text, from: origin.to_string() }
    };
    SETTINGS.iter().map(show).collect()
}

/// The settings as a settings' file, each with where its value came from.
pub(super) fn as_file(shown: &[ShownValue], has_api_key: bool) -> String {
    let mut text = String::new();
    if has_api_key {
        text.push_str(&format!("# {API_KEY_VARIABLE} is set\n"));
    }
    let mut section = None;
    for ShownValue { section: own, name, value, from } in shown {
        if *own != section {
            section = *own;
            text.push_str(&format!("\n[{}]\n", own.unwrap_or_default()));
        }
        let value = if is_number(value) { value.clone() } else { toml::Value::String(value.clone()).to_string() };
        text.push_str(&format!("{:40} # {from}\n", format!("{name} = {value}")));
    }
    text
}

/// Whether TOML reads the text as a number.
fn is_number(text: &str) -> bool {
    let table: Option<toml::Table> = toml::from_str(&format!("x = {text}")).ok();
    table.is_some_and(|table| table.len() == 1 && (table["x"].is_integer() || table["x"].is_float()))
}

/// Origins with commas between them; none is none.
fn origins(text: &str) -> Option<Vec<AllowedOrigin>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A whole number within bounds.
fn within<T: std::str::FromStr + PartialOrd + Copy>(text: &str, least: T, most: T) -> Option<T> {
    text.parse().ok().filter(|value| *value >= least && *value <= most)
}

/// `auto`, or what `read` understands.
fn automatic<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "auto" { Some(None) } else { read(text).map(Some) }
}

fn size_within<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Option<T> {
    size(text).filter(|bytes| (least..=most).contains(bytes)).and_then(|bytes| T::try_from(bytes).ok())
}

/// Bytes: `512`, `64MiB`, `1.5GiB`, `8GB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (bytes < 1e18).then_some(bytes as u64)
}

fn model_links(text: &str) -> Option<LinkPolicy> {
    match text {
        "inside" => Some(LinkPolicy::Inside),
        "anywhere" => Some(LinkPolicy::Anywhere),
        _ => None,
    }
}

fn metrics_access(text: &str) -> Option<MetricsAccess> {
    match text {
        "key" => Some(MetricsAccess::Key),
        "admin" => Some(MetricsAccess::Admin),
        "open" => Some(MetricsAccess::Open),
        _ => None,
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn store_place(text: &str) -> Option<ResponseStorePlace> {
    match text {
        "" => None,
        "memory" => Some(ResponseStorePlace::Memory),
        "off" => Some(ResponseStorePlace::Off),
        path => Some(ResponseStorePlace::File(PathBuf::from(path))),
    }
}

/// `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
pub(super) fn device(text: &str) -> Option<Device> {
    match text {
        "auto" => Some(Device::Auto),
        "cpu" => Some(Device::Cpu),
        "cuda" => Some(Device::Cuda(0)),
        _ => text.strip_prefix("cuda:")?.parse().ok().map(Device::Cuda),
    }
}

fn cuda_prefill(text: &str) -> Option<MatrixInstruction> {
    MatrixInstruction::ALL.into_iter().find(|instruction| instruction.name() == text)
}

fn cpu_math(text: &str) -> Option<Math> {
    Math::ALL.into_iter().find(|math| math.name() == text)
}

fn cpu_dense(text: &str) -> Option<Format> {
    Format::DENSE.into_iter().find(|format| format.name() == text)
}

/// Instructions that this CPU has, by their name in lower case.
fn isa(text: &str) -> Option<Isa> {
    Isa::available().into_iter().find(|isa| isa.name().to_lowercase() == text)
}

fn prompt_version(text: &str) -> Option<String> {
    ["SYS/v0", "SYS/v1", "SYS/v2"].contains(&text).then(|| text.to_owned())
}

/// `today`, or a day that exists.
fn date(text: &str) -> Option<Option<String>> {
    if text == "today" {
        return Some(None);
    }
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return None };
    if (year.len(), month.len(), day.len()) != (4, 2, 2) {
        return None;
    }
    let month = time::Month::try_from(month.parse::<u8>().ok()?).ok()?;
    time::Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    Some(Some(text.to_owned()))
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
