//! `antiphon load`: many users of a server, and a report.

mod arguments;

use std::fs;
use std::path::Path;
use std::thread;

use clap::{ArgMatches, Command};
use tokio::runtime::Builder;

use super::failure::{CommandFailure, can_be_written, print};
use super::serve::{layers, serve_for, variable};
use super::settings::{API_KEY_VARIABLE, Setting};
use crate::app::descriptors;
use crate::client::{Api, Client, ClientOptions};
use crate::clock::unix_seconds;
use crate::load::{self, Arrivals, Comparison, LoadError, LoadOptions, LoadReport, LoadRun, Prompts, Record, compare};
use crate::text_file;
use arguments::LoadArguments;

/// Descriptors that are asked for where the server decides how many connections there are.
const DESCRIPTORS: u64 = 65_536;
/// Longest report that is read to be compared; a request has a hundred bytes in it.
const REPORT_MAX_BYTES: u64 = 1 << 28;
/// Connections of a server of our own that are no user's: scrapes, and some that close.
const CONNECTIONS_BESIDE: usize = 64;
/// The setting for how many it takes.
const CONNECTIONS_SETTING: &str = "connections_max_count";
/// Descriptors that are no connections: files, the runtime's, the scrape's.
const DESCRIPTORS_BESIDE: u64 = 100;

/// The command's options.
pub(super) fn command() -> Command {
    arguments::command()
}

/// Loads, or compares two reports.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    if let Some(paths) = matches.get_many::<String>("compare") {
        let paths: Vec<&String> = paths.collect();
        return compare_files(paths[0], paths[1]);
    }
    let asked = LoadArguments::read(matches)?;
    for (option, path) in [("json", &asked.json), ("csv", &asked.csv), ("html", &asked.html)] {
        path.as_ref().map_or(Ok(()), |path| can_be_written(option, path.as_ref()))?;
    }
    make_room(&asked)?;
    if !asked.urls.is_empty() {
        return at(&asked, variable(API_KEY_VARIABLE));
    }
    // Its log would stand between the lines of the bar.
    let layers = layers(matches, &variable)?.or("log_level", "warn");
    let layers = match &asked.prefix_cache {
        Some(switch) => layers.or("prefix_cache", switch),
        None => layers,
    };
    // All of its users come from one address.
    let default = Setting::named(CONNECTIONS_SETTING).and_then(|setting| setting.default.parse().ok());
    let most = default.expect("the setting is there, and its default a number");
    let connections = (users_at_once(&asked).1 + CONNECTIONS_BESIDE).max(most).to_string();
    let layers = layers.or(CONNECTIONS_SETTING, &connections).or("address_connections_max_count", &connections);
    serve_for(&layers, true, move |url, key| at(&LoadArguments { urls: vec![url], ..asked }, key))?;
    // Ctrl-C has stopped the server. It also stops the load, whose thread ends this process once
    // its report is written.
    loop {
        thread::park();
    }
}

/// How many users there are at once, and the option that says so; none if the server decides it.
fn users_at_once(asked: &LoadArguments) -> (&'static str, usize) {
    let (option, users) = match asked.load.arrivals {
        Arrivals::Closed { concurrency } => ("--concurrency", concurrency),
        Arrivals::Bursts { count, .. } => ("--burst", count),
        // How many are under way is the server's doing.
        Arrivals::Poisson { .. } | Arrivals::Constant { .. } => ("", 0),
    };
    (option, users.min(asked.load.requests_max.unwrap_or(usize::MAX)))
}

/// Descriptors for as many connections as are open at once, or a failure that says how many there
/// may be.
fn make_room(asked: &LoadArguments) -> Result<(), CommandFailure> {
    let (option, users) = users_at_once(asked);
    let users = users as u64;
    // Our own server has the other end of each; of two servers each keeps its connections for the
    // next round.
    let ends = if asked.urls.len() == 1 { 1 } else { 2 };
    let needed = if users == 0 { 0 } else { users * ends + DESCRIPTORS_BESIDE };
    let given = descriptors::raise(needed.max(DESCRIPTORS));
    let given = given.map_err(|error| anyhow::anyhow!("the limit of open files: {error}"))?;
    if given < needed {
        return Err(anyhow::anyhow!(
            "{option} {users} needs {needed} open files and this process may have {given}; expected fewer, or a higher limit \
             (`ulimit -Hn {needed}` as root, LimitNOFILE= of a unit)"
        )
        .into());
    }
    Ok(())
}

/// Drives the load, prints and writes the report.
fn at(asked: &LoadArguments, key: Option<String>) -> Result<(), CommandFailure> {
    let options = ClientOptions { api_key: key, ca_file: asked.ca_file.clone(), ..ClientOptions::default() };
    let clients: Result<Vec<Client>, _> = asked.urls.iter().map(|url| Client::new(url, &options)).collect();
    let clients = clients.map_err(|error| CommandFailure::Usage(error.to_string()))?;
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(|error| anyhow::anyhow!("no threads: {error}"))?;
    let (report, records) = runtime.block_on(Box::pin(measure(asked, &clients))).map_err(failed)?;
    let comparison = in_turn(&report, &asked.urls);
    print(&load::table(&report))?;
    if let Some(comparison) = &comparison {
        print(&format!("\n{comparison}"))?;
    }
    write(asked, &report, &records, comparison.as_ref())?;
    verdict(&report, asked.failed_share_max)
}

fn failed(error: LoadError) -> CommandFailure {
    CommandFailure::Failed(error.into())
}

async fn measure(asked: &LoadArguments, clients: &[Client]) -> Result<(LoadReport, Vec<Record>), LoadError> {
    // Also shows that a server is there, before a thousand requests do.
    let mut loads = Vec::new();
    for client in clients {
        let model = match &asked.model {
            Some(model) => model.clone(),
            None => client.model().await?,
        };
        loads.push((client, LoadOptions { model, ..asked.load.clone() }));
    }
    let (mut runs, mut records, mut sweep) = (Vec::new(), Vec::new(), None);
    let mut notes = Vec::new();
    'rounds: for round in 0..asked.rounds {
        // The order turns round by round, so that what changes with time falls on both.
        let mut order: Vec<_> = loads.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (client, options) in order {
            let prompts = Prompts::open(&asked.source, asked.prefix_tokens, options.seed, client, &options.model).await?;
            notes.clone_from(&prompts.notes);
            if let Some(how) = &asked.sweep {
                let (more, all, found) = Box::pin(load::sweep(client, options, how, &prompts)).await;
                runs.extend(more);
                records.extend(all);
                sweep = Some(found);
            } else {
                let (run, all) = Box::pin(load::drive(client, options, &prompts)).await;
                runs.push(run);
                records.extend(all);
            }
            if runs.last().is_some_and(|run: &LoadRun| run.partial.is_some()) {
                break 'rounds;
            }
        }
    }
    if runs.iter().any(|run| run.token_count == load::TokenCount::Pieces) {
        notes.push("the server does not tell all its tokens: pieces of text are counted in their place".to_owned());
    }
    let mut models: Vec<&str> = loads.iter().map(|(_, options)| options.model.as_str()).collect();
    models.dedup();
    let report = LoadReport {
        version: crate::VERSION.to_owned(),
        created_s: unix_seconds(),
        api: asked.load.api.path().to_owned(),
        model: models.join(" and "),
        seed: asked.load.seed,
        load: asked.describe(),
        notes,
        runs,
        sweep,
    };
    Ok((report, records))
}

/// The comparison of two servers that were driven in turn.
fn in_turn(report: &LoadReport, urls: &[String]) -> Option<Comparison> {
    let [a, b] = urls else { return None };
    let shown = |url: &str| crate::client::BaseUrl::parse(url).map_or_else(|_| url.to_owned(), |url| url.to_string());
    let (a, b) = (shown(a), shown(b));
    let of = |url: &str| report.runs.iter().filter(|run| run.url == url).cloned().collect::<Vec<LoadRun>>();
    Some(compare(&a, &of(&a), &b, &of(&b)))
}

fn write(
    asked: &LoadArguments,
    report: &LoadReport,
    records: &[Record],
    comparison: Option<&Comparison>,
) -> Result<(), CommandFailure> {
    let to = |path: &str, text: String| fs::write(path, text).map_err(|error| anyhow::anyhow!("{path}: {error}"));
    if let Some(path) = &asked.json {
        let text = serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?;
        to(path, text + "\n")?;
    }
    if let Some(path) = &asked.csv {
        load::write_csv(path, records).map_err(failed)?;
    }
    if let Some(path) = &asked.html {
        to(path, load::html(report, comparison))?;
    }
    Ok(())
}

/// A failure if the load did not go as it should; the report has been written by then.
fn verdict(report: &LoadReport, failed_share_max: f64) -> Result<(), CommandFailure> {
    for run in &report.runs {
        if let Some(reason) = &run.partial {
            return Err(anyhow::anyhow!("{}: the load was broken off, the report is partial: {reason}", run.url).into());
        }
        if run.failed_share() > failed_share_max {
            let (failed, sent) = (run.counts.failed, run.counts.sent);
            let most =
                run.errors.values().max_by_key(|error| error.count).map_or("nothing was sent", |error| error.example.as_str());
            return Err(anyhow::anyhow!("{}: {failed} of {sent} requests failed, such as: {most}", run.url).into());
        }
    }
    Ok(())
}

fn compare_files(a: &str, b: &str) -> Result<(), CommandFailure> {
    let read = |path: &str| -> Result<LoadReport, CommandFailure> {
        let wrong = |message: String| {
            let expected = "a report that antiphon load wrote with --json";
            failed(LoadError::File { path: path.to_owned(), place: String::new(), message, expected })
        };
        let text = text_file::read(Path::new(path), REPORT_MAX_BYTES).map_err(|error| wrong(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
    };
    let (of_a, of_b) = (read(a)?, read(b)?);
    print(&compare(a, &of_a.runs, b, &of_b.runs).to_string())
}

/// The route of a name.
fn api(name: &str) -> Option<Api> {
    Api::from_name(name)
}
