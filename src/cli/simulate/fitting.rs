//! `antiphon simulate fit` and `cost-model`: making and showing cost models.

use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use crate::cli::failure::{CommandFailure, can_be_written, print};
use crate::cli::serve::variable;
use crate::cli::settings::API_KEY_VARIABLE;
use crate::client::{Client, ClientError, ClientOptions, Request};
use crate::cost::{CostModel, EngineShape, Figure, ObservedSteps, built_in_names, fit as fit_model};
use crate::text_file;

/// Longest timeline that is read: 4,096 steps have 5 MB.
const TIMELINE_MAX_BYTES: u64 = 1 << 28;

/// `fit`.
pub(super) fn fit_command() -> Command {
    let value =
        |name: &'static str, what: &'static str, help: &'static str| Arg::new(name).long(name).value_name(what).help(help);
    Command::new("fit")
        .about("Make a cost model from the steps that a server recorded (/debug/timeline)")
        .arg(
            value("url", "URL", "a server that was just under load; asked with the key of ANTIPHON_API_KEY, an admin's")
                .action(ArgAction::Append),
        )
        .arg(value("timeline", "FILE", "what its /debug/timeline answered; may be given again").action(ArgAction::Append))
        .arg(value("like", "NAME|FILE", "a cost model that says what the engine has room for").default_value("h200-20b"))
        .arg(
            value("steps-ahead", "SWITCH", "whether it plans a step while it computes one: on (GPUs) or off")
                .default_value("off"),
        )
        .arg(value("name", "NAME", "what the model is called").default_value("fit"))
        .arg(value("out", "FILE", "where it is written [default: standard output]"))
}

/// `cost-model`.
pub(super) fn model_command() -> Command {
    let name = Arg::new("name").value_name("NAME|FILE").required(true);
    Command::new("cost-model")
        .about("Print a cost model, to be changed and given with --cost-model")
        .arg(name.help(format!("{}, or a .toml file", built_in_names().join(", "))))
}

/// Prints a cost model.
pub(super) fn show(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let name = matches.get_one::<String>("name").expect("it is required");
    print(&CostModel::load(name).map_err(anyhow::Error::from)?.to_toml())
}

/// Fits a cost model.
pub(super) fn fit(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    if let Some(path) = text("out") {
        can_be_written("out", path.as_ref())?;
    }
    let mut engine = CostModel::load(text("like").expect("it has a default")).map_err(anyhow::Error::from)?.engine;
    engine.steps_max = match text("steps-ahead") {
        Some("on") => Figure(2.0),
        Some("off") => Figure(1.0),
        _ => return Err(CommandFailure::Usage("--steps-ahead is neither on nor off; expected one of them".to_owned())),
    };
    let (observed, places) = observed(matches, &mut engine)?;
    let name = text("name").expect("it has a default");
    let source = format!("fitted to {} steps of {places}", observed.steps.len());
    let (model, quality) = fit_model(name, source, &observed, engine).map_err(anyhow::Error::from)?;
    let said = format!(
        "{} steps, {} left out as disturbed; half are off by at most {:.1} %, 95 % by at most {:.1} %\n",
        quality.steps,
        quality.left_out,
        100.0 * quality.error_p50,
        100.0 * quality.error_p95
    );
    match text("out") {
        Some(path) => {
            fs::write(path, model.to_toml()).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
            print(&format!("{path}: {said}"))
        }
        None => print(&format!("# {said}{}", model.to_toml())),
    }
}

/// What the servers and files recorded, and where that is from; a server also says what its engine
/// has room for.
fn observed(matches: &ArgMatches, engine: &mut EngineShape) -> Result<(ObservedSteps, String), CommandFailure> {
    let list = |name: &str| matches.get_many::<String>(name).map(|all| all.cloned().collect()).unwrap_or_default();
    let (urls, files): (Vec<String>, Vec<String>) = (list("url"), list("timeline"));
    if urls.is_empty() && files.is_empty() {
        return Err(CommandFailure::Usage("no steps are named; expected --url or --timeline".to_owned()));
    }
    let mut steps = ObservedSteps::default();
    for path in &files {
        let text = text_file::read(Path::new(path), TIMELINE_MAX_BYTES);
        let text = text.map_err(|error| anyhow::anyhow!("timeline {path}: {error}"))?;
        steps.add(path, &text).map_err(anyhow::Error::from)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    for url in &urls {
        let options = ClientOptions { api_key: variable(API_KEY_VARIABLE), ..ClientOptions::default() };
        let client = Client::new(url, &options).map_err(|error| CommandFailure::Usage(error.to_string()))?;
        let asked = async {
            let timeline = client.call(&Request::get("/debug/timeline")).await?.success()?.text();
            Ok::<_, ClientError>((timeline, client.json(&Request::get("/stats")).await?))
        };
        let (timeline, stats) = runtime.block_on(asked).map_err(anyhow::Error::from)?;
        steps.add(url, &timeline).map_err(anyhow::Error::from)?;
        let count = |value: &Value| value.as_f64().filter(|count| *count > 0.0).map(Figure);
        engine.global_blocks = count(&stats["kv"]["full"]["total"]);
        engine.sliding_blocks = count(&stats["kv"]["sliding"]["total"]);
        engine.context_tokens_max = count(&stats["model_info"]["context_tokens_max"]).unwrap_or(engine.context_tokens_max);
    }
    Ok((steps, [files, urls].concat().join(", ")))
}
