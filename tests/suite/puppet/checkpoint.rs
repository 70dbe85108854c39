//! A checkpoint in gpt-oss form whose greedy output is a script.
//!
//! Its residual stream holds which token is the last one (the embedding, a direction a token) and
//! which were the last [`WINDOW`] ones (attention that sees each of them alike, written beside it).
//! A row of `lm_head` waits for the token before its own, and for the last token before it that is
//! said once only. So what is said again and again (`<|start|>assistant`) goes on as the script
//! does at that place.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use super::script::{CONTROL, HEADER_WORDS, Script};

/// Tokens that a puppet remembers.
const WINDOW: usize = 8;
/// What the last token weighs.
const LAST: f32 = 4.0;
/// What a token weighs that is one of the last ones.
const AMONG: f32 = 8.0;
/// How far the token of the script must lead: about 6 in logits.
const LEAD: f32 = 0.25;
const HEAD: usize = 64;

/// Rows of `lm_head`: the weights that are not zero, by column.
type Rows = Vec<HashMap<usize, f32>>;

/// Which id each token has.
struct Ids {
    words: Vec<Vec<u8>>,
}

impl Ids {
    fn of(script: &Script) -> Self {
        let mut words: Vec<Vec<u8>> = HEADER_WORDS.iter().map(|word| word.as_bytes().to_vec()).collect();
        for token in &script.0 {
            if token.len() > 1 && !is_control(token) && !words.contains(token) {
                words.push(token.clone());
            }
        }
        Self { words }
    }

    fn id(&self, token: &[u8]) -> usize {
        match token {
            [byte] => usize::from(*byte),
            control if is_control(control) => {
                let at = CONTROL.iter().position(|name| name.as_bytes() == control).expect("it is one of them");
                256 + self.words.len() + at
            }
            word => 256 + self.words.iter().position(|known| known == word).expect("a word of the script"),
        }
    }

    fn ids(&self, script: &Script) -> Vec<usize> {
        script.0.iter().map(|token| self.id(token)).collect()
    }

    /// Rows of the vocabulary: whole heads.
    fn rows(&self) -> usize {
        (256 + self.words.len() + CONTROL.len()).next_multiple_of(HEAD)
    }
}

fn is_control(token: &[u8]) -> bool {
    CONTROL.iter().any(|name| name.as_bytes() == token)
}

/// Writes the checkpoint that says `script` after a prompt that ends in `after`.
pub(super) fn write(folder: &Path, script: &Script, after: &Script) {
    let ids = Ids::of(script);
    let vocab_size = ids.rows();
    let rows = lm_head(&ids, script, after);
    let control = |name: &str| ids.id(name.as_bytes());
    let mut config: Value = serde_json::from_str(include_str!("../../goldens/g1/config.json")).expect("a config");
    for (key, value) in [
        ("num_hidden_layers", json!(2)),
        ("layer_types", json!(["sliding_attention", "full_attention"])),
        ("vocab_size", json!(vocab_size)),
        ("hidden_size", json!(2 * vocab_size)),
        ("head_dim", json!(HEAD)),
        ("num_attention_heads", json!(vocab_size / HEAD)),
        ("num_key_value_heads", json!(vocab_size / HEAD)),
        ("intermediate_size", json!(32)),
        ("num_local_experts", json!(1)),
        ("num_experts_per_tok", json!(1)),
        ("experts_per_token", json!(1)),
        ("sliding_window", json!(WINDOW)),
        ("eos_token_id", json!(control("<|return|>"))),
        ("pad_token_id", json!(control("<|endoftext|>"))),
        ("max_position_embeddings", json!(4096)),
    ] {
        config[key] = value;
    }
    let ends = ["<|return|>", "<|endoftext|>", "<|call|>"].map(control);
    let texts = [
        ("config.json", config),
        ("generation_config.json", json!({"eos_token_id": ends})),
        ("tokenizer.json", tokenizer(&ids)),
    ];
    for (name, value) in texts {
        fs::write(folder.join(name), value.to_string()).expect("written");
    }
    let tensors = tensors(vocab_size, &rows);
    let views = tensors.iter().map(|Tensor { name, dtype, shape, bytes }| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes of its shape"))
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).expect("written");
}

/// A byte-level tokenizer without merges: a prompt is its bytes, but for words that are in the
/// vocabulary.
fn tokenizer(ids: &Ids) -> Value {
    let mut file: Value = serde_json::from_str(include_str!("../../goldens/g1/tokenizer.json")).expect("a tokenizer");
    let mut visible = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).collect::<Vec<u32>>();
    let hidden: Vec<u32> = (0..256).filter(|byte| !visible.contains(byte)).collect();
    visible.extend(&hidden);
    let codes: Vec<u32> =
        (0..256).map(|byte| hidden.iter().position(|at| *at == byte).map_or(byte, |at| 256 + at as u32)).collect();
    let spelling = |token: &[u8]| -> String {
        token.iter().map(|byte| char::from_u32(codes[usize::from(*byte)]).expect("a character")).collect()
    };
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let vocab = bytes.chain(ids.words.clone()).map(|token| (spelling(&token), json!(ids.id(&token))));
    file["model"]["vocab"] = Value::Object(vocab.collect());
    file["model"]["merges"] = json!([]);
    file["model"]["ignore_merges"] = json!(true);
    for token in file["added_tokens"].as_array_mut().expect("a list") {
        token["id"] = json!(ids.id(token["content"].as_str().expect("a text").as_bytes()));
    }
    file
}

/// The rows that say `script`, checked: at each place its token leads all others.
fn lm_head(ids: &Ids, script: &Script, after: &Script) -> Rows {
    let (mut said, script) = (ids.ids(after), ids.ids(script));
    let vocab_size = ids.rows();
    let mut counts = vec![0; vocab_size];
    for token in said.iter().rev().take(WINDOW).chain(&script) {
        counts[*token] += 1;
    }
    let is_once = |token: usize| counts[token] == 1 && token < 256 + ids.words.len();
    let mut rows: Rows = vec![HashMap::new(); vocab_size];
    let begins = said.len();
    said.extend(&script);
    for at in begins..said.len() {
        let row = &mut rows[said[at]];
        row.insert(said[at - 1], LAST);
        if let Some(key) = window(&said[..at]).iter().rev().find(|token| is_once(**token)) {
            row.insert(vocab_size + key, AMONG);
        }
        if is_once(said[at]) {
            // Not again.
            row.insert(vocab_size + said[at], -AMONG);
        }
    }
    for at in begins..said.len() {
        let before = window(&said[..at]);
        let weight = |row: &HashMap<usize, f32>, column: usize| row.get(&column).copied().unwrap_or(0.0);
        let score = |row: &HashMap<usize, f32>| {
            let among: f32 = before.iter().map(|token| weight(row, vocab_size + token)).sum();
            weight(row, said[at - 1]) + among / before.len() as f32
        };
        let others = rows.iter().enumerate().filter(|(token, _)| *token != said[at]).map(|(_, row)| score(row));
        let lead = score(&rows[said[at]]) - others.fold(f32::MIN, f32::max);
        assert!(lead >= LEAD, "nothing tells what token {} of the script follows: it leads by {lead}", at - begins);
    }
    rows
}

/// The tokens that are remembered after `said`.
fn window(said: &[usize]) -> &[usize] {
    &said[said.len().saturating_sub(WINDOW)..]
}

struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    /// All values the same.
    fn filled(name: String, shape: &[usize], value: f32) -> Self {
        let values = shape.iter().product();
        let bytes = bf16::from_f32(value).to_le_bytes().repeat(values);
        Self { name, dtype: Dtype::BF16, shape: shape.to_vec(), bytes }
    }

    /// Bytes that are all the same.
    fn bytes(name: String, shape: &[usize], value: u8) -> Self {
        Self { name, dtype: Dtype::U8, shape: shape.to_vec(), bytes: vec![value; shape.iter().product()] }
    }

    /// With these values at (row, column).
    fn with(mut self, values: impl IntoIterator<Item = (usize, usize, f32)>) -> Self {
        for (row, column, value) in values {
            let at = 2 * (row * self.shape[1] + column);
            self.bytes[at..at + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes());
        }
        self
    }
}

fn tensors(vocab_size: usize, rows: &Rows) -> Vec<Tensor> {
    let hidden = 2 * vocab_size;
    let zeros = |name: &str, shape: &[usize]| Tensor::filled(name.to_owned(), shape, 0.0);
    let ones = |name: &str| Tensor::filled(name.to_owned(), &[hidden], 1.0);
    let weights = rows.iter().enumerate().flat_map(|(row, values)| values.iter().map(move |(at, value)| (row, *at, *value)));
    let mut tensors = vec![
        zeros("model.embed_tokens.weight", &[vocab_size, hidden]).with((0..vocab_size).map(|token| (token, token, 1.0))),
        zeros("lm_head.weight", &[vocab_size, hidden]).with(weights),
        ones("model.norm.weight"),
    ];
    for layer in 0..2 {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        let zeros = |rest: &str, shape: &[usize]| zeros(&name(rest), shape);
        // What the first layer's attention sees of a token is its direction, whose length a norm makes
        // sqrt(hidden).
        let seen = (0..if layer == 0 { vocab_size } else { 0 }).map(|token| (token, token, 1.0 / (hidden as f32).sqrt()));
        let noted = (0..if layer == 0 { vocab_size } else { 0 }).map(|token| (vocab_size + token, token, 1.0));
        tensors.extend(["input_layernorm.weight", "post_attention_layernorm.weight"].map(|rest| ones(&name(rest))));
        tensors.extend(["q", "k"].map(|of| zeros(&format!("self_attn.{of}_proj.weight"), &[vocab_size, hidden])));
        tensors.extend(["q", "k", "v"].map(|of| zeros(&format!("self_attn.{of}_proj.bias"), &[vocab_size])));
        tensors.extend([
            zeros("self_attn.v_proj.weight", &[vocab_size, hidden]).with(seen),
            zeros("self_attn.o_proj.weight", &[hidden, vocab_size]).with(noted),
            zeros("self_attn.o_proj.bias", &[hidden]),
            Tensor::filled(name("self_attn.sinks"), &[vocab_size / HEAD], -100.0),
            zeros("mlp.router.weight", &[1, hidden]),
            zeros("mlp.router.bias", &[1]),
            zeros("mlp.experts.gate_up_proj_bias", &[1, 64]),
            zeros("mlp.experts.down_proj_bias", &[1, hidden]),
            Tensor::bytes(name("mlp.experts.gate_up_proj_blocks"), &[1, 64, hidden / 32, 16], 0),
            Tensor::bytes(name("mlp.experts.gate_up_proj_scales"), &[1, 64, hidden / 32], 127),
            Tensor::bytes(name("mlp.experts.down_proj_blocks"), &[1, hidden, 1, 16], 0),
            Tensor::bytes(name("mlp.experts.down_proj_scales"), &[1, hidden, 1], 127),
        ]);
    }
    tensors
}
