//! The body of a request, in the form of its route.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::options::LoadOptions;
use crate::client::Api;

/// A message of a conversation.
#[derive(Debug, Clone)]
pub(super) struct PromptMessage {
    pub(super) role: &'static str,
    pub(super) text: String,
}

/// The body that asks for the answer of a conversation's `turn`.
pub(super) fn body(options: &LoadOptions, history: &[PromptMessage], index: usize, turn: usize) -> Bytes {
    let messages = || history.iter().map(|message| json!({"role": message.role, "content": message.text})).collect::<Vec<_>>();
    let text = || history.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n\n");
    let mut body = json!({"model": options.model, "temperature": options.temperature, "stream": true});
    let limit = if options.api == Api::Responses { "max_output_tokens" } else { "max_tokens" };
    let mut random = SmallRng::seed_from_u64(options.seed ^ (index as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ turn as u64);
    body[limit] = json!(random.random_range(options.output_tokens_min..=options.output_tokens));
    if options.ignore_eos {
        body["ignore_eos"] = Value::Bool(true);
    }
    match options.api {
        Api::Chat | Api::Generate => body["messages"] = json!(messages()),
        Api::Completions => body["prompt"] = json!(text()),
        Api::Responses => body["input"] = json!(messages()),
        Api::GenerateStream => {
            body["prompt"] = json!(text());
            body["user_id"] = json!("load");
            body["model_type"] = json!("prompt");
        }
    }
    if matches!(options.api, Api::Chat | Api::Completions | Api::Generate) {
        body["stream_options"] = json!({"include_usage": true});
    }
    for (name, value) in &options.extra_body {
        body[name.as_str()] = value.clone();
    }
    body.to_string().into()
}

/// Whether `name` is a field that [`body`] writes for one of the routes, so that no other value of
/// it can be asked for.
pub(crate) fn is_own_field(name: &str) -> bool {
    const OWN: [&str; 12] = [
        "model",
        "temperature",
        "stream",
        "stream_options",
        "max_tokens",
        "max_output_tokens",
        "ignore_eos",
        "messages",
        "prompt",
        "input",
        "user_id",
        "model_type",
    ];
    OWN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::options;
    use super::super::options::Arrivals;
    use super::*;

    #[test]
    fn answers_are_asked_for_between_both_lengths_by_the_seed() {
        let options = |seed| LoadOptions {
            output_tokens_min: 10,
            output_tokens: 13,
            seed,
            ..options(Arrivals::Closed { concurrency: 1 })
        };
        let asked = |seed: u64, index: usize, turn: usize| {
            let body: Value = serde_json::from_slice(&body(&options(seed), &[], index, turn)).expect("JSON");
            body["max_tokens"].as_u64().expect("a limit")
        };
        let all: Vec<u64> = (0..100).map(|index| asked(1, index, 0)).collect();
        assert_eq!(all, (0..100).map(|index| asked(1, index, 0)).collect::<Vec<_>>());
        for limit in 10..=13 {
            assert!(all.iter().filter(|asked| **asked == limit).count() > 10, "{limit} in {all:?}");
        }
        assert!(all.iter().all(|asked| (10..=13).contains(asked)));
        assert_ne!(all, (0..100).map(|index| asked(2, index, 0)).collect::<Vec<_>>());
        assert_ne!(all, (0..100).map(|index| asked(1, index, 1)).collect::<Vec<_>>());
    }

    #[test]
    fn fields_that_are_asked_for_besides_are_in_each_body_and_what_a_body_has_is_its_own() {
        let extra_body =
            json!({"response_format": {"type": "json_object"}, "top_p": 0.5}).as_object().cloned().expect("an object");
        for api in [Api::Chat, Api::Completions, Api::Responses, Api::Generate, Api::GenerateStream] {
            let plain = LoadOptions { api, ignore_eos: true, ..options(Arrivals::Closed { concurrency: 1 }) };
            let asked = LoadOptions { extra_body: extra_body.clone(), ..plain.clone() };
            let [plain, asked] =
                [plain, asked].map(|options| serde_json::from_slice::<Value>(&body(&options, &[], 0, 0)).expect("JSON"));
            assert_eq!((&asked["response_format"]["type"], &asked["top_p"]), (&json!("json_object"), &json!(0.5)));
            assert!(plain.as_object().expect("an object").keys().all(|name| is_own_field(name)), "{plain}");
        }
        assert!(extra_body.keys().all(|name| !is_own_field(name)));
    }
}
