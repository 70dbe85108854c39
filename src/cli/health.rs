//! `antiphon health`: whether a server is ready, as an exit code. For images that hold no shell and
//! no curl.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::failure::{CommandFailure, print};
use crate::client::{Client, ClientOptions, Request};

/// The command's options.
pub(super) fn command() -> Command {
    let url = Arg::new("url").long("url").value_name("URL").default_value("http://127.0.0.1:8000");
    let seconds = Arg::new("timeout").long("timeout").value_name("SECONDS").default_value("2");
    Command::new("health")
        .about("Ask a server whether it is ready: exit code 0 if it is, else 1")
        .arg(url.help("The server"))
        .arg(seconds.value_parser(value_parser!(u64).range(1..=60)).help("How long its answer may take"))
}

/// Asks.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let url = matches.get_one::<String>("url").expect("it has a default");
    let seconds = *matches.get_one::<u64>("timeout").expect("it has a default");
    let limit = Duration::from_secs(seconds);
    let client = Client::new(url, &ClientOptions { connect_max: limit, ..ClientOptions::default() });
    let client = client.map_err(anyhow::Error::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let request = Request::get("/health/ready");
    let answer = runtime.block_on(async { tokio::time::timeout(limit, client.call(&request)).await });
    let answer = answer.map_err(|_| anyhow::anyhow!("{url}: no answer from /health/ready within {seconds} s"))?;
    answer.and_then(|answer| answer.success()).map_err(anyhow::Error::from)?;
    print("ready\n")
}
