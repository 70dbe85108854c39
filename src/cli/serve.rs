//! `antiphon serve`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::exit;
use std::sync::mpsc::channel;
use std::thread;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tracing_subscriber::filter::EnvFilter;

use super::failure::{CommandFailure, print};
use super::file;
use super::layers::{self, Layers};
use super::options::{OptionsError, as_file, serve_options};
use super::settings::{CONFIG_VARIABLE, SETTINGS, Setting};
use crate::app;
use crate::app::logging::{self, Format};
use crate::profile::Profile;

const ABOUT: &str = "Serve a model over HTTP";
const MORE: &str = "Every option can also stand in the environment (ANTIPHON_PORT for --port) and in the TOML file that --config \
                    names (port = 8000; the options of a profile in its tables, [batch] and so on). A flag comes before the \
                    environment, that before the file, that before the profile.";

/// actix calls everything that is no HTTP an error, at level ERROR: port scans would page the
/// operator. The http room has a line of its own for each at debug. A filter that names
/// `actix_http` goes before this.
const ACTIX_OFF: &str = "actix_http=off";

/// The command's options.
pub(super) fn command() -> Command {
    let print = Arg::new("print_config")
        .long("print-config")
        .action(ArgAction::SetTrue)
        .help("Print every setting with where its value came from, and exit");
    Command::new("serve").about(ABOUT).after_help(MORE).args(setting_args(|_| true)).arg(print)
}

/// The options for the settings that `wanted` picks, and for the file that may hold them.
pub(super) fn setting_args(wanted: impl Fn(&Setting) -> bool) -> Vec<Arg> {
    let arg = |setting: &'static Setting| {
        let default = if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
        let arg = Arg::new(setting.name)
            .long(setting.flag())
            .value_name(setting.value)
            .help(format!("{}{default}", setting.help))
            .allow_hyphen_values(true)
            .action(if setting.is_list { ArgAction::Append } else { ArgAction::Set });
        if setting.section.is_some() { arg.help_heading("Over the profile") } else { arg }
    };
    let config = Arg::new("config").long("config").value_name("FILE").help("TOML file with settings");
    SETTINGS.iter().filter(|setting| wanted(setting)).map(arg).chain([config]).collect()
}

/// What the command line, the environment and the file say.
pub(super) fn layers(matches: &ArgMatches, variable: &dyn Fn(&str) -> Option<String>) -> Result<Layers, CommandFailure> {
    let given = |setting: &'static Setting| {
        let values: Vec<String> = matches.try_get_many(setting.name).ok()??.cloned().collect();
        Some((setting.name, values.join(",")))
    };
    let flags: BTreeMap<&'static str, String> = SETTINGS.iter().filter_map(given).collect();
    let path =
        matches.get_one::<String>("config").cloned().or_else(|| variable(CONFIG_VARIABLE).filter(|path| !path.is_empty()));
    let file = path.map(|path| file::read(&PathBuf::from(path))).transpose().map_err(anyhow::Error::from)?.unwrap_or_default();
    Ok(Layers::new(&flags, variable, &file))
}

/// Starts the log as the settings say.
pub(super) fn start_log(layers: &Layers) -> Result<logging::Log, CommandFailure> {
    let format = layers.read("log_format", "text or json", |text| match text {
        "text" => Some(Format::Text),
        "json" => Some(Format::Json),
        _ => None,
    });
    let filter = layers.read("log_level", "a level such as info, or a filter such as antiphon=debug", |text| {
        // A single word that is no level would be taken for a module's name, and silence everything
        // else.
        let is_filter = ["error", "warn", "info", "debug", "trace", "off"].contains(&text) || text.contains('=');
        let text = if text == "off" { text.to_owned() } else { format!("{ACTIX_OFF},{text}") };
        is_filter.then(|| EnvFilter::builder().parse(&text).ok())?
    });
    let (format, filter) = (format.map_err(OptionsError::from)?, filter.map_err(OptionsError::from)?);
    logging::start(format, filter).map_err(|error| anyhow::anyhow!("the log's thread: {error}").into())
}

/// An environment variable; bytes that are no UTF-8 are replaced, so that the message about them
/// can be shown.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Serves until it is asked to stop.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let layers = layers(matches, &variable)?;
    let options = serve_options(&layers, &variable)?;
    if matches.get_flag("print_config") {
        let Profile { name, description, .. } = &options.profile;
        let settings = as_file(&options.shown, !options.api_keys.is_empty());
        return print(&format!("# profile {name}: {}\n{settings}", description.replace(['\n', '\r'], " ")));
    }
    let log = start_log(&layers)?;
    for name in layers::unknown_variables(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned())) {
        tracing::warn!(name, "no setting has this environment variable");
    }
    tracing::info!(profile = options.profile.name, description = options.profile.description, "profile");
    let has_key = !options.api_keys.is_empty();
    let ready = Box::new(move |address: SocketAddr| {
        if !has_key && !address.ip().is_loopback() {
            tracing::warn!("other machines can reach this server, and it asks for no key; --api-key-file gives it some");
        }
        tracing::info!(%address, "ready");
    });
    Ok(app::serve(&options, log.watch(), ready)?)
}

/// Serves on a free port of this machine for one `task`, which gets the server's URL and its first
/// API key. The task has a thread of its own; the server keeps this one, for its signals, and ends
/// with the process. If SIGINT is not to stop the server, it is the task's, and ends the process
/// until the task takes it.
pub(super) fn serve_for(
    layers: &Layers,
    interrupt_stops: bool,
    task: impl FnOnce(String, Option<String>) -> Result<(), CommandFailure> + Send + 'static,
) -> Result<(), CommandFailure> {
    let mut options = serve_options(layers, &variable)?;
    "127.0.0.1".clone_into(&mut options.host);
    options.port = 0;
    options.interrupt_stops = interrupt_stops;
    let log = start_log(layers)?;
    let (ready, address) = channel::<SocketAddr>();
    let key = options.api_keys.first().map(|key| key.reveal().to_owned());
    thread::spawn(move || {
        // If the server does not start, nothing arrives, and its failure ends the process.
        let Ok(address) = address.recv() else { return };
        match task(format!("http://{address}"), key) {
            Ok(()) => exit(0),
            Err(failure) => {
                failure.report();
                exit(1);
            }
        }
    });
    let ready = Box::new(move |address| {
        tracing::info!(%address, "ready");
        // The task may have ended before the server was ready.
        _ = ready.send(address);
    });
    Ok(app::serve(&options, log.watch(), ready)?)
}
