//! Golden files: the checkpoint, its prompts, and what Hugging Face computed on them.

use antiphon::batch::TokenId;
use antiphon::engine::checkpoint::{Checkpoint, CheckpointFiles};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checkpoint and what was computed on it.
pub(super) struct Golden {
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) cases: Vec<Case>,
}

/// The likeliest token at a place.
pub(super) struct Drawn {
    pub(super) token: TokenId,
    /// How far its logit leads the second's.
    pub(super) margin: f32,
    /// How far the last expert that the row goes to leads the next one, in the layer where it does
    /// so least; infinite where it was not noted.
    pub(super) router_gap: f32,
}

/// What is different where one router's near tie falls the other way; `tests/goldens/turn_ties.py`
/// says more.
pub(super) struct Turned {
    /// Positions of the prompt, and their logits.
    rows: Vec<(usize, Vec<f32>)>,
    /// Steps of the continuation, and their likeliest tokens.
    tokens: Vec<(usize, TokenId)>,
}

/// One prompt.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) prompt: Vec<TokenId>,
    /// Logits of every position, or of the last alone.
    pub(super) all_rows: bool,
    pub(super) logits: Vec<Vec<f32>>,
    /// The likeliest tokens after the prompt and their logits.
    pub(super) top: Vec<(TokenId, f32)>,
    /// The continuation.
    pub(super) greedy: Vec<Drawn>,
    /// Each of the near ties.
    pub(super) turned: Vec<Turned>,
    /// The residual stream after the embedding and after each layer but the last, then its last
    /// norm.
    pub(super) hidden: Vec<Vec<f32>>,
}

impl Case {
    /// The logits at a position of the prompt, in each way that a near tie may fall.
    pub(super) fn turned_logits(&self, position: usize) -> impl Iterator<Item = &[f32]> {
        let rows = self.turned.iter().flat_map(|turned| &turned.rows);
        rows.filter(move |(at, _)| *at == position).map(|(_, logits)| logits.as_slice())
    }

    /// Whether `token` is the likeliest at a step of the continuation, in some way that a near tie
    /// may fall.
    pub(super) fn turned_to(&self, step: usize, token: TokenId) -> bool {
        self.turned.iter().any(|turned| turned.tokens.contains(&(step, token)))
    }
}

impl Golden {
    /// `g1` to `g4`.
    pub(super) fn open(name: &str) -> Self {
        let directory = at("tests/goldens").join(name);
        let bytes = fs::read(directory.join("golden_logits.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let golden = json(&directory.join("golden.json"));
        let turned = turned(&directory);
        let case = |case: &Value| {
            let name = case["logits"].as_str().unwrap();
            let greedy = case["greedy"].as_array().unwrap();
            let greedy = greedy.iter().map(|step| Drawn {
                token: token(&step["token"]),
                margin: number(&step["margin"]),
                router_gap: number(&step["router_gap"]),
            });
            Case {
                name: format!("{}/{name}", directory.file_name().unwrap().display()),
                prompt: tokens(&case["prompt"]),
                all_rows: case["rows"] == "all",
                logits: rows(&tensors, name),
                top: Vec::new(),
                greedy: greedy.collect(),
                turned: turned(name),
                hidden: Vec::new(),
            }
        };
        let cases = golden["cases"].as_array().unwrap().iter().map(case).collect();
        Self { checkpoint: checkpoint(&directory), cases }
    }

    /// A golden whose experts are stored as the bf16 values that their MXFP4 stands for.
    pub(super) fn dequantised(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        super::dense::dequantise(&at("tests/goldens").join(name), folder.path());
        // The mapped file outlives its name.
        Self { checkpoint: checkpoint(folder.path()), ..Self::open(name) }
    }

    /// A small trained model with its thirteen prompts.
    pub(super) fn tiny() -> Self {
        Self::prompts("tests/goldens/tiny")
    }

    /// The model in the binary with its twelve prompts.
    pub(super) fn embedded() -> Self {
        Self::prompts("models/tiny")
    }

    /// A checkpoint with its golden.json beside it; a continuation counts up to its stop token.
    fn prompts(directory: &str) -> Self {
        let golden = json(&at(directory).join("golden.json"));
        let case = |case: &Value| {
            let stop = case["stop_index"].as_u64().map_or(usize::MAX, |stop| usize::try_from(stop).unwrap() + 1);
            let margins = case["greedy_margin"].as_array().unwrap().iter().map(number);
            Case {
                name: format!("{directory}/{}", case["name"].as_str().unwrap()),
                prompt: tokens(&case["prompt_ids"]),
                all_rows: false,
                logits: Vec::new(),
                top: tokens(&case["top20_ids"])
                    .into_iter()
                    .zip(case["top20_logits"].as_array().unwrap().iter().map(number))
                    .collect(),
                greedy: tokens(&case["greedy_ids"])
                    .into_iter()
                    .zip(margins)
                    .map(|(token, margin)| Drawn { token, margin, router_gap: f32::INFINITY })
                    .take(stop)
                    .collect(),
                turned: Vec::new(),
                hidden: Vec::new(),
            }
        };
        let cases = golden["cases"].as_array().unwrap().iter().map(case).collect();
        Self { checkpoint: checkpoint(&at(directory)), cases }
    }

    /// The small trained model with two short prompts, all logits and the hidden states of each
    /// layer.
    pub(super) fn tiny_logits() -> Self {
        let bytes = fs::read(at("tests/goldens/tiny/golden_logits.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let case = |name: &str| {
            let ids = tensors.tensor(&format!("{name}.ids")).unwrap();
            let ids = ids.data().chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()));
            let hidden = (0..).map_while(|layer| tensors.tensor(&format!("{name}.hidden.{layer}")).ok());
            Case {
                name: format!("tiny/{name}"),
                prompt: ids.map(|id| TokenId(u32::try_from(id).unwrap())).collect(),
                all_rows: true,
                logits: rows(&tensors, &format!("{name}.logits")),
                top: Vec::new(),
                greedy: Vec::new(),
                turned: Vec::new(),
                hidden: hidden.map(|tensor| floats(tensor.data())).collect(),
            }
        };
        Self { checkpoint: checkpoint(&at("tests/goldens/tiny")), cases: vec![case("a"), case("b")] }
    }
}

/// A conversation in the tokens of the embedded model.
pub(super) struct Text {
    pub(super) ids: Vec<TokenId>,
    /// How many of the last tokens the model is to write.
    written: usize,
}

impl Text {
    /// Whether the model is to write the token that follows the one at `at`.
    pub(super) fn predicts_written(&self, at: usize) -> bool {
        (self.ids.len() - self.written..self.ids.len()).contains(&(at + 1))
    }
}

/// Prompts and what the model answers to them.
pub(super) fn answered(golden: &Golden) -> Vec<Text> {
    let ids = |case: &Case| case.prompt.iter().copied().chain(case.greedy.iter().map(|drawn| drawn.token)).collect();
    golden.cases.iter().map(|case| Text { ids: ids(case), written: case.greedy.len() }).collect()
}

/// Held-out conversations with their right answers.
pub(super) fn held_out() -> Vec<Text> {
    let texts = json(&at("models/tiny/held_out.json"));
    let text = |text: &Value| Text { ids: tokens(&text["ids"]), written: text["written"].as_u64().unwrap() as usize };
    texts.as_array().unwrap().iter().map(text).collect()
}

pub(super) fn at(path: &str) -> PathBuf {
    // Cargo says it when it runs a test; scripts/gpu-check does where there is no cargo.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join(path)
}

pub(super) fn checkpoint(directory: &Path) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(&CheckpointFiles::directory(directory).unwrap()).unwrap())
}

/// The near ties of a checkpoint's cases, by the name of the case.
fn turned(directory: &Path) -> impl Fn(&str) -> Vec<Turned> {
    let ties = json(&directory.join("turned.json"));
    let bytes = fs::read(directory.join("turned_logits.safetensors")).unwrap();
    move |case| {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let index = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let tie = |tie: &Value| {
            let logits = tie["logits"].as_str().map_or(Vec::new(), |name| rows(&tensors, name));
            let positions: Vec<usize> = tie["rows"].as_array().unwrap().iter().map(index).collect();
            assert_eq!(positions.len(), logits.len(), "{case}: a position for each row");
            let tokens = tie["tokens"].as_array().unwrap().iter().map(|pair| (index(&pair[0]), token(&pair[1])));
            Turned { rows: positions.into_iter().zip(logits).collect(), tokens: tokens.collect() }
        };
        ties["ties"].as_array().unwrap().iter().filter(|tie| tie["case"] == case).map(tie).collect()
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn token(value: &Value) -> TokenId {
    TokenId(u32::try_from(value.as_u64().unwrap()).unwrap())
}

fn tokens(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(token).collect()
}

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn rows(tensors: &SafeTensors<'_>, name: &str) -> Vec<Vec<f32>> {
    let tensor = tensors.tensor(name).unwrap();
    let values = floats(tensor.data());
    values.chunks_exact(*tensor.shape().last().unwrap()).map(<[f32]>::to_vec).collect()
}
