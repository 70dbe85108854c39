use super::*;
use antiphon_kernels::rope::{Rope, RopeScaling, Yarn};
use proptest::prelude::*;
use serde_json::json;

/// The config of the released 20b model, shortened to what matters.
fn released() -> Value {
    json!({
        "model_type": "gpt_oss", "attention_bias": true, "eos_token_id": 200_002, "experts_per_token": 4, "head_dim": 64,
        "hidden_size": 2880, "intermediate_size": 2880, "max_position_embeddings": 131_072, "num_attention_heads": 64,
        "num_experts_per_tok": 4, "num_hidden_layers": 4, "num_key_value_heads": 8, "num_local_experts": 32,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "quantization_config": {"quant_method": "mxfp4"}, "rms_norm_eps": 1e-5,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": false},
        "rope_theta": 150_000, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "vocab_size": 201_088
    })
}

fn parse(value: &Value) -> Result<ModelConfig, CheckpointError> {
    ModelConfig::parse(value.to_string().as_bytes())
}

fn changed(key: &str, to: Value) -> Value {
    let mut config = released();
    config[key] = to;
    config
}

fn without(keys: &[&str]) -> Value {
    let mut config = released();
    for key in keys {
        config.as_object_mut().unwrap().remove(*key);
    }
    config
}

#[test]
fn the_released_shape_is_read() {
    let config = parse(&released()).unwrap();
    assert_eq!((config.hidden, config.heads, config.kv_heads, config.head_dim), (2880, 64, 8, 64));
    assert_eq!((config.experts, config.experts_per_token, config.sliding_window_tokens), (32, 4, 128));
    assert_eq!(config.layers, [KvGroup::Sliding, KvGroup::Global, KvGroup::Sliding, KvGroup::Global]);
    assert_eq!(config.eos_tokens, [TokenId(200_002)]);
    assert!((config.swiglu_limit - 7.0).abs() < 1e-6 && (config.swiglu_alpha - 1.702).abs() < 1e-6);
    let mut twenty = config;
    twenty.layers = [KvGroup::Sliding, KvGroup::Global].repeat(12);
    assert_eq!(twenty.parameters(), 20_914_757_184, "OpenAI's model card: 20.91 billion");
}

#[test]
fn both_spellings_mean_the_same() {
    let old = parse(&released()).unwrap();
    let mut new = without(&["rope_scaling", "rope_theta", "torch_dtype", "experts_per_token", "layer_types"]);
    new["dtype"] = json!("bfloat16");
    new["eos_token_id"] = json!([200_002]);
    new["rope_parameters"] = json!({"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_theta": 150_000.0,
        "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false});
    assert_eq!(parse(&new).unwrap(), old);
    let mut renamed = without(&["num_experts_per_tok", "num_local_experts"]);
    renamed["num_experts"] = json!(32);
    assert_eq!(parse(&renamed).unwrap(), old);
    // The rope of GptOssConfig when the file has none.
    assert_eq!(parse(&without(&["rope_scaling", "rope_theta"])).unwrap(), old);
    assert_eq!(parse(&changed("rope_scaling", Value::Null)).unwrap(), old);
}

#[test]
fn defaults_are_those_of_transformers() {
    let config = parse(&without(&[
        "attention_bias",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "sliding_window",
        "swiglu_limit",
        "tie_word_embeddings",
        "eos_token_id",
    ]));
    let mut expected = parse(&released()).unwrap();
    expected.eos_tokens.clear();
    assert_eq!(config.unwrap(), expected);
    let mut config = changed("head_dim", Value::Null);
    config["num_attention_heads"] = json!(16);
    config["num_key_value_heads"] = Value::Null;
    let config = parse(&config).unwrap();
    assert_eq!((config.head_dim, config.kv_heads), (180, 16));
}

#[test]
fn a_window_may_be_absent_where_no_layer_slides() {
    let mut config = changed("sliding_window", Value::Null);
    assert!(parse(&config).unwrap_err().to_string().contains("`sliding_window` is null"));
    config["layer_types"] = json!(["full_attention", "full_attention", "full_attention", "full_attention"]);
    assert_eq!(parse(&config).unwrap().sliding_window_tokens, 131_072);
}

#[test]
fn lies_are_refused_with_file_key_value_and_expectation() {
    let table = [
        ("num_attention_heads", json!(0), "from 1 to"),
        ("num_attention_heads", json!(-4), "from 1 to"),
        ("num_attention_heads", json!(6.5), "from 1 to"),
        ("num_attention_heads", json!("8"), "from 1 to"),
        ("num_key_value_heads", json!(7), "divisor of num_attention_heads, 64"),
        ("num_key_value_heads", json!(0), "from 1 to"),
        ("head_dim", json!(63), "even"),
        ("num_experts_per_tok", json!(33), "number of experts, 32"),
        ("num_experts_per_tok", json!(0), "from 1 to"),
        ("num_local_experts", json!(1_u64 << 40), "from 1 to"),
        ("sliding_window", json!(0), "from 1 to"),
        ("sliding_window", json!(-128), "from 1 to"),
        ("num_hidden_layers", json!(1_000_000_000), "from 1 to"),
        ("num_hidden_layers", json!(5), ""),
        ("layer_types", json!(["sliding_attention", "full_attention", "linear_attention", "full_attention"]), "full_attention"),
        ("layer_types", json!("full_attention"), "a list of 4 strings"),
        ("model_type", json!("llama"), "\"gpt_oss\""),
        ("model_type", Value::Null, "\"gpt_oss\""),
        ("torch_dtype", json!("int3"), "bfloat16"),
        ("hidden_act", json!("gelu"), "\"silu\""),
        ("hidden_act", json!(1), "a string"),
        ("hidden_size", json!(2881), "multiple of 32"),
        ("intermediate_size", json!(48), "multiple of 32"),
        ("intermediate_size", json!(u64::MAX), "from 1 to"),
        ("rope_theta", json!(0), "above 1"),
        ("rope_theta", json!(-150_000), "above 1"),
        ("rope_theta", json!("NaN"), "a number"),
        ("rms_norm_eps", json!(0), "a number above 0"),
        ("rms_norm_eps", json!([]), "a number above 0"),
        ("swiglu_limit", json!(-7), "a number above 0"),
        ("attention_bias", json!("yes"), "true or false"),
        ("eos_token_id", json!(201_088), "below vocab_size, 201088"),
        ("eos_token_id", json!([1, -1]), "below vocab_size"),
        ("vocab_size", json!(0), "from 1 to"),
        ("partial_rotary_factor", json!(0.5), "whole heads"),
    ];
    for (key, value, expected) in table {
        let message = parse(&changed(key, value.clone())).unwrap_err().to_string();
        let named = if message.contains("layer_types") { "layer_types" } else { key };
        assert!(message.starts_with(&format!("config.json: `{named}` is ")), "{key} {value}: {message}");
        assert!(message.contains(expected), "{key} {value}: {message}");
        assert!(!message.contains('\n') && message.chars().count() < 240, "{message}");
    }
}

#[test]
fn lies_inside_objects_name_the_path() {
    let table = [
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}), "`rope_scaling.rope_type` is \"dynamic\""),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 0}), "`rope_scaling.factor` is 0"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 8.0, "truncate": 1}), "`rope_scaling.truncate` is 1"),
        ("rope_scaling", json!({"rope_type": "linear"}), "`rope_scaling.factor` is absent"),
        ("rope_scaling", json!({"rope_theta": 0.0}), "`rope_scaling.rope_theta` is 0"),
        ("rope_scaling", json!([]), "`rope_scaling` is []"),
        ("quantization_config", json!(4), "`quantization_config` is 4, expected an object"),
        ("quantization_config", json!({"quant_method": "gptq"}), "`quantization_config.quant_method` is \"gptq\""),
    ];
    for (key, value, expected) in table {
        let message = parse(&changed(key, value)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn each_size_must_be_there() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_local_experts",
        "num_hidden_layers",
        "vocab_size",
    ] {
        let message = parse(&without(&[key])).unwrap_err().to_string();
        assert!(message.starts_with(&format!("config.json: `{key}` is missing")), "{message}");
    }
    let message = parse(&without(&["num_experts_per_tok", "experts_per_token"])).unwrap_err().to_string();
    assert!(message.contains("`num_experts_per_tok` is missing"), "{message}");
}

#[test]
fn text_that_is_no_config_is_refused() {
    let deep = "[".repeat(10_000);
    for text in ["", "{", "[1]", "NaN", "{\"rope_theta\": NaN}", "\u{0}", deep.as_str()] {
        let message = ModelConfig::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(message.starts_with("config.json: "), "{message}");
    }
    assert!(ModelConfig::parse(b"{\"model_type\": \"\xff\"}").is_err());
}

#[test]
fn every_kind_of_rope_is_read() {
    let table = [
        (json!({"rope_type": "default"}), RopeScaling::Default),
        (json!({"type": "linear", "factor": 4}), RopeScaling::Linear { factor: 4.0 }),
        (json!({"rope_type": "yarn", "factor": 8.0, "beta_fast": 0}), RopeScaling::Yarn(Yarn::new(8.0, 131_072))),
        (json!({"rope_type": "yarn", "original_max_position_embeddings": 4096}), RopeScaling::Yarn(Yarn::new(32.0, 4096))),
        (
            json!({"rope_type": "yarn", "factor": 2, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5, "mscale": 0.7}),
            RopeScaling::Yarn(Yarn {
                beta_fast: 16.0,
                beta_slow: 2.0,
                attention_factor: Some(1.5),
                mscale: Some(0.7),
                ..Yarn::new(2.0, 131_072)
            }),
        ),
        (
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": 64}),
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_tokens: 64 },
        ),
    ];
    for (stated, expected) in table {
        assert_eq!(parse(&changed("rope_scaling", stated)).unwrap().rope.scaling, expected);
    }
    let inside = parse(&changed("rope_scaling", json!({"rope_theta": 5000}))).unwrap();
    assert_eq!(inside.rope, RopeConfig { theta: 5000.0, scaling: RopeScaling::Default });
}

#[test]
fn sampling_defaults_are_read() {
    let json =
        br#"{"bos_token_id": 1, "do_sample": true, "eos_token_id": [3, 2], "temperature": 0.7, "top_k": 50, "top_p": 0.9}"#;
    let defaults = SamplingDefaults::parse(json, 4).unwrap();
    assert_eq!(defaults.eos_tokens, [TokenId(3), TokenId(2)]);
    assert_eq!((defaults.temperature, defaults.top_p, defaults.top_k), (Some(0.7), Some(0.9), Some(50)));
    assert_eq!(SamplingDefaults::parse(b"{\"do_sample\": false}", 4).unwrap().temperature, Some(0.0));
    assert_eq!(SamplingDefaults::parse(b"{}", 4).unwrap(), SamplingDefaults::default());
    let message = SamplingDefaults::parse(json, 3).unwrap_err().to_string();
    assert!(message.starts_with("generation_config.json: `eos_token_id` is [3,2]"), "{message}");
}

proptest! {
    #[test]
    fn parsing_never_panics(key in 0_usize..24, value in "[0-9eE.+-]{1,12}|null|true|\\[\\]|\\{\\}|\"[a-z]{0,9}\"") {
        let mut config = released();
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        let Ok(value) = serde_json::from_str(&value) else { return Ok(()) };
        config[&keys[key % keys.len()]] = value;
        if let Ok(config) = parse(&config) {
            let rope = Rope::new(config.rope.theta, config.head_dim, &config.rope.scaling);
            prop_assert!(rope.concentration.is_finite() && rope.frequencies.iter().all(|turn| turn.is_finite()));
        }
    }
}
