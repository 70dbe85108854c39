//! `antiphon synth`: a model of a known shape with random weights, to measure with.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::failure::{CommandFailure, print};
use crate::engine::checkpoint::{SHARD_BYTES_MAX, Synth};
use crate::prompt::tokenizer::fill_vocabulary;
use crate::source::{HubSettings, ModelContent, resolve};

/// What the shapes differ in: layers, hidden, experts, intermediate, heads, KV heads, vocabulary,
/// positions before scaling.
const SHAPES: [(&str, [usize; 8]); 3] = [
    ("20b", [24, 2880, 32, 2880, 64, 8, 201_088, 4096]),
    ("120b", [36, 2880, 128, 2880, 64, 8, 201_088, 4096]),
    ("small", [8, 512, 16, 512, 8, 2, 8192, 4096]),
];

/// The command's options.
pub(super) fn command() -> Command {
    let shapes = PossibleValuesParser::new(SHAPES.map(|(name, _)| name));
    let shape = Arg::new("shape").long("shape").value_name("SHAPE").required(true).value_parser(shapes);
    let directory = Arg::new("directory").value_name("DIR").required(true).value_parser(value_parser!(PathBuf));
    Command::new("synth")
        .about("Write a model of a known shape with random weights, to measure with; goes on where it was cut off")
        .arg(shape.help("gpt-oss-20b's (14 GB), gpt-oss-120b's (65 GB), or a small one (90 MB)"))
        .arg(directory.help("Where to write it; made if it is not there"))
}

/// Writes the model.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CommandFailure> {
    let name = matches.get_one::<String>("shape").expect("it is required");
    let directory = matches.get_one::<PathBuf>("directory").expect("it is required");
    let (_, shape) = SHAPES.iter().find(|(known, _)| known == name).expect("clap has checked it");
    write(directory, shape).map_err(|error| anyhow::anyhow!("synth {}: {error}", directory.display()))?;
    let place = directory.display();
    print(&format!("{place}: random weights in the shape of {name}; serve it with `antiphon serve --model {place}`\n"))
}

fn write(directory: &Path, shape: &[usize; 8]) -> anyhow::Result<()> {
    let tiny = resolve(None, &HubSettings::from_environment()?, &mut |_| {})?;
    let ModelContent::Embedded(files) = tiny.content else { unreachable!("the tiny model is in the binary") };
    fs::create_dir_all(directory)?;
    let mut synth = None;
    // The golden is of the embedded model's weights.
    for file in files.iter().filter(|file| file.name.ends_with(".json") && file.name != "golden.json") {
        let bytes = match file.name {
            "config.json" => {
                let config = config(file.bytes, shape)?;
                synth = Some(Synth::new(&config, SHARD_BYTES_MAX)?);
                config
            }
            "tokenizer.json" => fill_vocabulary(file.bytes, shape[6])?,
            _ => file.bytes.to_vec(),
        };
        let path = directory.join(file.name);
        anyhow::ensure!(
            file.name != "config.json" || fs::read(&path).map_or(true, |there| there == bytes),
            "config.json is that of another model; expected an empty directory or one that an earlier synth has begun"
        );
        fs::write(path, bytes)?;
    }
    let synth = synth.expect("the embedded model has a config");
    let style = ProgressStyle::with_template("[{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} (eta {eta})")?;
    let bar = ProgressBar::new(synth.bytes()).with_style(style);
    synth.write(directory, &mut |progress| bar.set_position(progress.done_bytes))?;
    bar.finish_and_clear();
    Ok(())
}

/// The config of the shape: the embedded model's, with other numbers, so that it fits the embedded
/// tokenizer.
fn config(embedded: &[u8], shape: &[usize; 8]) -> anyhow::Result<Vec<u8>> {
    let [layers, hidden, experts, intermediate, heads, kv_heads, vocab, positions] = *shape;
    let mut config: Value = serde_json::from_slice(embedded)?;
    let kinds = ["sliding_attention", "full_attention"];
    let kinds: Vec<&str> = kinds.into_iter().cycle().take(layers).collect();
    for (key, value) in [
        ("num_hidden_layers", json!(layers)),
        ("layer_types", json!(kinds)),
        ("hidden_size", json!(hidden)),
        ("num_local_experts", json!(experts)),
        ("num_experts_per_tok", json!(4)),
        ("experts_per_token", json!(4)),
        ("intermediate_size", json!(intermediate)),
        ("num_attention_heads", json!(heads)),
        ("num_key_value_heads", json!(kv_heads)),
        ("head_dim", json!(64)),
        ("sliding_window", json!(128)),
        ("vocab_size", json!(vocab)),
        ("initial_context_length", json!(positions)),
        ("max_position_embeddings", json!(32 * positions)),
    ] {
        config[key] = value;
    }
    config["rope_scaling"]["original_max_position_embeddings"] = json!(positions);
    Ok(serde_json::to_vec_pretty(&config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenAI's own config.json of gpt-oss-20b says, but for what the shapes leave out.
    #[test]
    fn the_shape_of_20b_is_that_of_its_config() {
        let (_, shape) = SHAPES.iter().find(|(name, _)| *name == "20b").unwrap();
        let embedded = include_bytes!("../../models/tiny/config.json");
        let config: Value = serde_json::from_slice(&config(embedded, shape).unwrap()).unwrap();
        for (key, value) in [
            ("num_hidden_layers", 24),
            ("hidden_size", 2880),
            ("num_local_experts", 32),
            ("num_experts_per_tok", 4),
            ("experts_per_token", 4),
            ("intermediate_size", 2880),
            ("num_attention_heads", 64),
            ("num_key_value_heads", 8),
            ("head_dim", 64),
            ("sliding_window", 128),
            ("vocab_size", 201_088),
            ("initial_context_length", 4096),
            ("max_position_embeddings", 131_072),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
        assert_eq!(config["rope_scaling"]["original_max_position_embeddings"], 4096);
        let kinds = config["layer_types"].as_array().unwrap();
        assert_eq!((kinds.len(), &kinds[0], &kinds[1]), (24, &json!("sliding_attention"), &json!("full_attention")));
    }
}
