use crate::http::openapi::TOLD;
use crate::http::openapi::requests::*;
use crate::http::wire::samples::terms;

const FORMS: [BodyForm; 13] = [
    BodyForm::Chat,
    BodyForm::Completion,
    BodyForm::Response,
    BodyForm::Conversation,
    BodyForm::Labels,
    BodyForm::Items,
    BodyForm::Message,
    BodyForm::CountedMessage,
    BodyForm::Tokenize,
    BodyForm::Detokenize,
    BodyForm::Generate,
    BodyForm::Code,
    BodyForm::Batch,
];

fn fields() -> Map<String, Value> {
    let told: Value = serde_json::from_str(TOLD).unwrap();
    told["fields"].as_object().unwrap().clone()
}

fn schema(form: BodyForm) -> Value {
    form.schema(&terms(), &fields()).unwrap()
}

/// Whether a body lacks what it must have, as its reader says.
fn misses(form: BodyForm, body: &Value) -> Option<String> {
    match form.read(body.clone(), &terms()) {
        Err(WireError::Missing { param, .. }) => Some(param),
        _ => None,
    }
}

#[test]
fn what_is_required_is_what_readers_miss() {
    for form in FORMS {
        let (name, required, sample) = form.told().unwrap();
        let sample: Value = serde_json::from_str(&sample).unwrap();
        for field in required {
            let mut body = sample.clone();
            body.as_object_mut().unwrap().shift_remove(*field);
            let read = form.read(body.clone(), &terms());
            assert!(read.is_err(), "{name} is read without {field}");
        }
        let all = sample.as_object().unwrap().keys();
        let optional = all.filter(|key| !required.contains(&key.as_str()));
        for field in optional.filter(|field| !["prompt", "messages", "input"].contains(&field.as_str())) {
            let mut body = sample.clone();
            body.as_object_mut().unwrap().shift_remove(field);
            assert_eq!(misses(form, &body), None, "{name} misses {field}");
        }
    }
}

#[test]
fn a_schema_has_the_bounds_of_its_reader() {
    let chat = schema(BodyForm::Chat);
    let properties = &chat["properties"];
    assert_eq!(properties["n"], serde_json::json!({"type": ["integer", "null"], "minimum": 1, "maximum": 128}));
    assert_eq!((&properties["temperature"]["minimum"], &properties["temperature"]["maximum"]), (&json!(0.0), &json!(2.0)));
    assert_eq!(properties["repetition_penalty"]["exclusiveMinimum"], 0.0);
    assert_eq!(properties["max_tokens"]["maximum"], 1000, "the context of this model");
    assert_eq!(properties["stream_options"]["properties"]["include_usage"]["type"], json!(["boolean", "null"]));
    assert_eq!(properties["messages"]["items"]["$ref"], "#/components/schemas/ChatMessage");
    assert_eq!(properties["model"]["enum"], json!(["tiny", "gpt-oss", null]));
    let refused: Vec<&str> = chat["x-refused"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(refused.contains(&"lora_path") && !refused.contains(&"stop"), "{refused:?}");
    assert!(schema(BodyForm::Response)["properties"]["text"]["properties"].get("format").is_some());
}

/// Fields that docs/api.md names as honoured, by the form of body.
const HONOURED: [(BodyForm, &str); 5] = [
    (
        BodyForm::Chat,
        "model reasoning_effort thinking_token_budget max_thinking_tokens reserve_answer_tokens include_reasoning reasoning_format stop \
         max_tokens max_completion_tokens response_format structured_outputs tools tool_choice parallel_tool_calls logprobs top_logprobs \
         stream stream_options priority prompt_cache_key cache_salt ignore_eos min_tokens return_token_ids profile seed logit_bias \
         guided_json json_schema grammar regex ebnf",
    ),
    (
        BodyForm::Response,
        "input instructions max_output_tokens temperature top_p top_logprobs include tools tool_choice parallel_tool_calls text \
         reasoning metadata user safety_identifier prompt_cache_key store previous_response_id conversation background service_tier \
         truncation max_tool_calls",
    ),
    (
        BodyForm::Message,
        "messages system max_tokens stop_sequences tools tool_choice thinking output_config output_format metadata cache_control \
         context_management service_tier",
    ),
    (BodyForm::Completion, "prompt echo logprobs n return_token_ids stop_token_ids best_of"),
    (BodyForm::Code, "user_id model_type prompt user_select_options temperature"),
];

#[test]
fn the_manual_names_no_field_that_the_schemas_lack() {
    for (form, names) in HONOURED {
        let schema = schema(form);
        for name in names.split_whitespace() {
            assert!(schema["properties"].get(name).is_some(), "{:?} lacks {name}", form.name());
        }
    }
}
