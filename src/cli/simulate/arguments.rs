//! The command line of a plan.

use clap::{Arg, ArgMatches, Command};

use crate::capacity::{FleetOptions, MadeUpLoad, OfferedLoad, Routing, TokenRange, TuneTarget, read_trace};
use crate::cli::failure::CommandFailure;
use crate::cli::options::size;
use crate::cli::presets::{self, Asked};
use crate::cost::{CostModel, built_in_names};
use crate::engine::cpu::available_bytes;
use crate::load::{Arrivals, GoodputTargets};
use crate::profile::Profile;

/// Most servers of a plan.
const REPLICAS_MAX: usize = 1_000;
/// What a core keeps of a block of each group, in bytes, tokens of the prefix cache included; the
/// sizes of `scheduler::block_pool` and `scheduler::prefix_cache`.
const BLOCK_BYTES: u64 = 160;

/// What is asked of a plan.
pub(super) struct PlanArguments {
    pub(super) demand: OfferedLoad,
    pub(super) fleet: FleetOptions,
    pub(super) json: Option<String>,
    /// What a profile is searched for; empty searches none.
    pub(super) targets: Vec<TuneTarget>,
    /// The same as it was given.
    pub(super) tune: String,
    pub(super) profile_out: Option<String>,
}

/// The command with the options, in groups.
pub(super) fn with_arguments(command: Command) -> Command {
    let value = |name: &'static str, what: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(what).help(help).allow_hyphen_values(true)
    };
    let models = built_in_names().join(", ");
    command
        .next_help_heading("A load")
        .arg(presets::argument())
        .arg(value("trace", "FILE", "requests of a trace: CSV or JSON lines with Azure's or BurstGPT's names"))
        .arg(value("poisson", "RATE", "conversations a second that begin at random moments"))
        .arg(value("concurrency", "N", "so many users, each of which asks again once it has its answer"))
        .arg(value("requests", "N", "conversations that are made up, or lines of the trace [default: 1000, or all lines]"))
        .arg(value("prompt-tokens", "N|N-M", "tokens of a prompt, or what each turn adds [default: 512]"))
        .arg(value("output-tokens", "N|N-M", "tokens of an answer [default: 128]"))
        .arg(value("shared-prefix-tokens", "N", "tokens that all prompts begin with [default: 0]"))
        .arg(value("session-turns", "N", "requests of a conversation, each with the history before it [default: 1]"))
        .arg(value("think-seconds", "S", "from an answer to the next turn [default: 0]"))
        .next_help_heading("The servers")
        .arg(
            value("cost-model", "NAME|FILE", "how long steps take")
                .help(format!("how long steps take: {models}, or a .toml file")),
        )
        .arg(value("profile", "NAME|FILE", "the profile that they are started with [default: balanced]"))
        .arg(value("prefix-cache", "SWITCH", "whether what prompts have in common is computed once: on or off [default: on]"))
        .arg(value("kv-bytes", "SIZE", "KV memory of a server [default: the cost model's]"))
        .arg(value("replicas", "N", "how many servers, 1000 at most [default: 1]"))
        .arg(value(
            "route",
            "HOW",
            "which of them gets a request: round-robin, least-loaded or cache-aware [default: round-robin]",
        ))
        .next_help_heading("What is good enough")
        .arg(value("target-ttft", "MS", "most milliseconds to the first token"))
        .arg(value("target-tpot", "MS", "most milliseconds a token after the first"))
        .arg(value("target-e2e", "MS", "most milliseconds to the end of the answer"))
        .arg(value("target-share", "SHARE", "share of requests that must meet the targets").default_value("0.95"))
        .arg(value("tune", "TARGETS", "search for a profile that meets these, in milliseconds: ttft-p99=500,itl-p99=50"))
        .arg(value("profile-out", "FILE", "where the profile that was found is written, for serve --profile").requires("tune"))
        .next_help_heading("Reports")
        .arg(value("json", "FILE", "write the report as JSON"))
}

impl PlanArguments {
    /// Reads the command line; `None` if no load is asked for.
    pub(super) fn read(matches: &ArgMatches) -> Result<Option<Self>, CommandFailure> {
        let read = Asked::new(matches)?;
        let Some(demand) = demand(&read, *matches.get_one("seed").expect("it has a default"))? else { return Ok(None) };
        let text = |name: &str| read.text(name).map(str::to_owned);
        let expected =
            "targets such as ttft-p99=500,itl-p99=50: ttft, itl, tpot or e2e at p50, p90, p95 or p99, in milliseconds";
        let targets = read.value("tune", expected, |text| text.split(',').map(TuneTarget::parse).collect())?;
        let asked = Self {
            demand,
            fleet: fleet(&read)?,
            json: text("json"),
            targets: targets.unwrap_or_default(),
            tune: text("tune").unwrap_or_default(),
            profile_out: text("profile-out"),
        };
        check_memory(&asked.fleet)?;
        Ok(Some(asked))
    }
}

fn demand(read: &Asked<'_>, seed: u64) -> Result<Option<OfferedLoad>, CommandFailure> {
    let (trace, rate) = (read.text("trace"), read.positive("poisson")?);
    let concurrency = read.count("concurrency", 1)?;
    let requests = read.conversations(concurrency)?;
    let arrivals = match (trace, rate, concurrency) {
        (None, None, None) => return Ok(None),
        (Some(path), None, None) => {
            let mut lines = read_trace(path).map_err(anyhow::Error::from)?;
            lines.truncate(requests.unwrap_or(usize::MAX));
            return Ok(Some(OfferedLoad::Trace(lines)));
        }
        (None, Some(rate), None) => Arrivals::Poisson { rate },
        (None, None, Some(concurrency)) => Arrivals::Closed { concurrency },
        _ => return Err(CommandFailure::Usage("expected one of --trace, --poisson and --concurrency".to_owned())),
    };
    let range = |name: &str, default: u32| {
        let tokens = read.tokens(name)?.unwrap_or((default, default));
        Ok::<_, CommandFailure>(TokenRange { from: tokens.0, to: tokens.1 })
    };
    let turns = read.within("session-turns", "a whole number from 1 to 10000", 1, 10_000)?;
    let think_seconds = read.within("think-seconds", "a number from 0 to 86400", 0.0, 86_400.0)?.unwrap_or(0.0);
    Ok(Some(OfferedLoad::MadeUp(MadeUpLoad {
        arrivals,
        conversations: requests.unwrap_or(1_000),
        prompt: range("prompt-tokens", 512)?,
        output: range("output-tokens", 128)?,
        prefix_tokens: read.within("shared-prefix-tokens", "a whole number to 1048576", 0, 1 << 20)?.unwrap_or(0),
        turns: turns.unwrap_or(1),
        think_micros: (think_seconds * 1e6) as u64,
        seed,
    })))
}

fn fleet(read: &Asked<'_>) -> Result<FleetOptions, CommandFailure> {
    let names = || format!("no cost model is named; expected --cost-model with {} or a file", built_in_names().join(", "));
    let model = read.text("cost-model").ok_or_else(|| CommandFailure::Usage(names()))?;
    let switch = |text: &str| match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    };
    let routing = |text: &str| Routing::ALL.into_iter().find(|routing| routing.name() == text);
    let kv_bytes = |text: &str| size(text).filter(|bytes| *bytes >= 1 << 20);
    Ok(FleetOptions {
        cost: CostModel::load(model).map_err(anyhow::Error::from)?,
        profile: Profile::load(read.text("profile").unwrap_or("balanced")).map_err(anyhow::Error::from)?,
        prefix_cache: read.value("prefix-cache", "on or off", switch)?.unwrap_or(true),
        kv_bytes: read.value("kv-bytes", "a size from 1MiB", kv_bytes)?,
        replicas: read.within("replicas", "a whole number from 1 to 1000", 1, REPLICAS_MAX)?.unwrap_or(1),
        routing: read.value("route", "round-robin, least-loaded or cache-aware", routing)?.unwrap_or(Routing::RoundRobin),
        targets: GoodputTargets {
            ttft_ms: read.positive("target-ttft")?,
            tpot_ms: read.positive("target-tpot")?,
            e2e_ms: read.positive("target-e2e")?,
            share: read.share("target-share")?,
        },
    })
}

/// Every replica has a core of its own, with something of each block: a thousand servers with
/// memory of a hundred gigabytes do not fit everywhere.
fn check_memory(fleet: &FleetOptions) -> Result<(), CommandFailure> {
    let engine = fleet.engine_limits();
    let blocks = (engine.global_blocks + engine.sliding_blocks) as u64;
    let needed = blocks * BLOCK_BYTES * fleet.replicas as u64;
    let available = available_bytes().unwrap_or(u64::MAX);
    if needed < available {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "{} servers with {blocks} KV blocks each take {} MiB to simulate, and {} MiB are free; expected fewer, or a smaller --kv-bytes",
        fleet.replicas,
        needed >> 20,
        available >> 20
    )
    .into())
}
