//! `antiphon simulate`: what servers would do under a load; without a load, the scheduler core
//! through seeded worlds.

mod arguments;
mod fitting;
mod worlds;

use std::fs;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::failure::{CommandFailure, can_be_written, print};
use crate::capacity::{self, CapacityReport, Tuned};
use arguments::PlanArguments;

/// The command's options.
pub(super) fn command() -> Command {
    let seed = Arg::new("seed").long("seed").value_name("NUMBER").default_value("0").value_parser(value_parser!(u64));
    let command = Command::new("simulate")
        .about("Tell what servers would do under a load, by a cost model; without a load, check the scheduler in seeded worlds")
        .args_conflicts_with_subcommands(true)
        .subcommands([fitting::fit_command(), fitting::model_command()])
        .arg(seed.help("what every random choice comes from; of worlds the first seed"))
        .next_help_heading("Worlds that check the scheduler")
        .args(worlds::arguments());
    arguments::with_arguments(command)
}

/// Plans, or lives through worlds.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    match matches.subcommand() {
        Some(("fit", matches)) => return fitting::fit(matches),
        Some(("cost-model", matches)) => return fitting::show(matches),
        _ => {}
    }
    let Some(asked) = PlanArguments::read(matches)? else { return worlds::run(matches) };
    for (option, path) in [("json", &asked.json), ("profile-out", &asked.profile_out)] {
        path.as_ref().map_or(Ok(()), |path| can_be_written(option, path.as_ref()))?;
    }
    if asked.targets.is_empty() {
        let report = capacity::run(&asked.demand, &asked.fleet);
        print(&report.table())?;
        return write(&asked, &report);
    }
    let tuned = capacity::tune(&asked.demand, &asked.fleet, &asked.targets);
    print(&tuned.report.table())?;
    write(&asked, &tuned.report)?;
    write_profile(&asked, tuned)
}

/// Writes or prints the profile that was found. Targets that are missed are a failure, which has
/// the nearest profile all the same.
fn write_profile(asked: &PlanArguments, tuned: Tuned) -> Result<(), CommandFailure> {
    let Tuned { mut profile, tried, worst_ratio, .. } = tuned;
    profile.description = format!(
        "Found by antiphon simulate for {} with the cost model {} ({}), not measured: {:.2} of the target that is met worst.",
        asked.tune,
        asked.fleet.cost.name,
        asked.fleet.cost.kind.name(),
        worst_ratio
    );
    let text = toml::to_string(&profile.tables()).map_err(anyhow::Error::from)?;
    match &asked.profile_out {
        Some(path) => {
            fs::write(path, text).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
            print(&format!("{tried} profiles were tried; the best is in {path}\n"))?;
        }
        None => print(&format!("{tried} profiles were tried; the best:\n\n{text}"))?,
    }
    if worst_ratio <= 1.0 {
        return Ok(());
    }
    let nearest = format!("the nearest profile reaches {worst_ratio:.2} times the bound that it misses most");
    Err(anyhow::anyhow!(
        "no profile that was tried meets {}: {nearest}; expected wider bounds, less load or more servers",
        asked.tune
    )
    .into())
}

fn write(asked: &PlanArguments, report: &CapacityReport) -> Result<(), CommandFailure> {
    let Some(path) = &asked.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?;
    fs::write(path, text + "\n").map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
    Ok(())
}
