//! What a server's flight recorder says of its steps and requests.

use serde_json::Value;

use super::CostError;
use crate::batch::StepWork;

/// A step that a server computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObservedStep {
    /// What it computed.
    pub work: StepWork,
    /// How long it took, in microseconds: from when the engine was free for it to when its result
    /// was taken.
    pub micros: f64,
}

/// What was recorded of some servers' steps and requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedSteps {
    /// The steps.
    pub steps: Vec<ObservedStep>,
    /// From the end of a step to the beginning of the next, where that followed at once, in
    /// microseconds.
    pub gaps_us: Vec<f64>,
    /// Of each request: tokens of its prompt, and microseconds until it was in the queue.
    pub built: Vec<(f64, f64)>,
}

/// A step that begins later after the one before it was not awaited: nothing was to be computed, or
/// a window held it.
const GAP_US_MAX: u64 = 2_000;

impl ObservedSteps {
    /// Adds what `/debug/timeline` of a server answered; `place` is where the text is from.
    ///
    /// # Errors
    /// [`CostError::Timeline`] for anything else.
    pub fn add(&mut self, place: &str, text: &str) -> Result<(), CostError> {
        let wrong = |message: String| CostError::Timeline { place: place.to_owned(), message };
        let trace: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let events = trace["traceEvents"].as_array().ok_or_else(|| wrong("it has no traceEvents".to_owned()))?;
        let mut last_end = None;
        for event in events.iter().filter(|event| event["ph"] == "X") {
            let (Some(began), Some(micros)) = (event["ts"].as_u64(), event["dur"].as_u64()) else {
                return Err(wrong(format!("an event has no time: {event}")));
            };
            match event["name"].as_str() {
                Some("step") => {
                    let work = work(&event["args"]).ok_or_else(|| {
                        wrong("its steps do not say what they computed, as those of older servers".to_owned())
                    })?;
                    self.steps.push(ObservedStep { work, micros: micros.max(1) as f64 });
                    let gap = last_end.and_then(|end| began.checked_sub(end)).filter(|gap| *gap < GAP_US_MAX);
                    self.gaps_us.extend(gap.map(|gap| gap as f64));
                    last_end = Some(began + micros);
                }
                Some("lost step") => last_end = None,
                Some("building") => {
                    let prompt_tokens = event["args"]["prompt_tokens"].as_u64().filter(|tokens| *tokens > 0);
                    self.built.extend(prompt_tokens.map(|tokens| (tokens as f64, micros as f64)));
                }
                _ => {}
            }
        }
        if self.steps.is_empty() {
            return Err(wrong("it has no steps".to_owned()));
        }
        Ok(())
    }
}

fn work(args: &Value) -> Option<StepWork> {
    let count = |name: &str| args[name].as_u64();
    Some(StepWork {
        prefill_tokens: count("tokens_prefilled")?,
        decode_sequences: count("tokens_decoded")?,
        context_tokens: count("tokens_of_context")?,
        prefill_pairs: count("pairs_prefilled")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(name: &str, ts: u64, dur: u64) -> Value {
        let args = json!({"tokens_prefilled": 3, "tokens_decoded": 2, "tokens_of_context": 40, "pairs_prefilled": 6});
        json!({"name": name, "ph": "X", "ts": ts, "dur": dur, "args": args})
    }

    #[test]
    fn steps_gaps_and_requests_are_read() {
        let events = json!([
            {"name": "process_name", "ph": "M", "ts": 0},
            step("step", 100, 50),
            step("step", 160, 40),
            step("lost step", 300, 40),
            step("step", 350, 30),
            step("step", 9_000, 30),
            {"name": "building", "ph": "X", "ts": 5, "dur": 70, "args": {"prompt_tokens": 12}},
            {"name": "building", "ph": "X", "ts": 5, "dur": 70, "args": {"prompt_tokens": 0}},
        ]);
        let mut observed = ObservedSteps::default();
        observed.add("x.json", &json!({"traceEvents": events}).to_string()).expect("a timeline");
        let work = StepWork { prefill_tokens: 3, decode_sequences: 2, context_tokens: 40, prefill_pairs: 6 };
        assert_eq!(observed.steps.len(), 4);
        assert_eq!(observed.steps[1], ObservedStep { work, micros: 40.0 });
        // Neither the step after a lost one nor one that nothing waited for tells of a gap.
        assert_eq!((observed.gaps_us, observed.built), (vec![10.0], vec![(12.0, 70.0)]));
    }

    #[test]
    fn what_is_no_timeline_is_refused() {
        let old = json!({"traceEvents": [{"name": "step", "ph": "X", "ts": 1, "dur": 1, "args": {"tokens": 3}}]});
        let timeless = json!({"traceEvents": [{"name": "step", "ph": "X", "ts": -1, "dur": 1}]});
        for (text, part) in [
            ("{".to_owned(), "EOF while parsing"),
            ("{}".to_owned(), "it has no traceEvents"),
            (json!({"traceEvents": []}).to_string(), "it has no steps"),
            (old.to_string(), "do not say what they computed"),
            (timeless.to_string(), "an event has no time"),
        ] {
            let said = ObservedSteps::default().add("x.json", &text).expect_err(part).to_string();
            assert!(said.starts_with("x.json: ") && said.contains(part), "{said}");
        }
    }
}
