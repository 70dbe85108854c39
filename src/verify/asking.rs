//! Requests of the tests, and what comes back: every byte with its time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bench::Bench;
use super::case::Halt;
use crate::client::{Answer, AnswerEvent, Api, ClientError, Decoder, ErrorText, Request, SseEvent, SseParser};

/// The question of both plans.
pub(super) const JAY: &str = "Write Python code that prints \"Jay\".";
/// What a right answer to it holds.
pub(super) const JAY_CODE: &str = "print(\"Jay\")";

/// A piece of text.
#[derive(Debug, Clone)]
pub(super) struct TextChunk {
    pub(super) at: Instant,
    pub(super) text: String,
}

/// A stream, read to its end.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) content_type: String,
    pub(super) request_id: Option<String>,
    pub(super) raw: Vec<u8>,
    pub(super) events: Vec<SseEvent>,
    /// Pieces of the answer.
    pub(super) content: Vec<TextChunk>,
    /// The first piece of any text, reasoning included.
    pub(super) first_text: Option<Instant>,
    pub(super) finish: Option<String>,
    pub(super) error: Option<ErrorText>,
}

impl Heard {
    /// The answer.
    pub(super) fn text(&self) -> String {
        self.content.iter().map(|chunk| chunk.text.as_str()).collect()
    }

    /// From the request to the first text.
    pub(super) fn ttft_ms(&self) -> Option<f64> {
        self.first_text.map(|at| (at - self.started).as_secs_f64() * 1e3)
    }

    /// From the request to the end.
    pub(super) fn seconds(&self) -> f64 {
        (self.ended - self.started).as_secs_f64()
    }

    /// The metadata of the last event that has some.
    pub(super) fn metadata(&self) -> Value {
        let read = |event: &SseEvent| serde_json::from_str::<Value>(&event.data).ok().map(|event| metadata(&event).clone());
        self.events.iter().rev().filter_map(read).find(Value::is_object).unwrap_or_default()
    }
}

/// The metadata of an answer, or of an event, in whatever dialect.
pub(super) fn metadata(answer: &Value) -> &Value {
    ["antiphon", "metadata"].map(|name| &answer[name]).into_iter().find(|value| value.is_object()).unwrap_or(&Value::Null)
}

/// A stream that is being read.
pub(super) struct Listening {
    answer: Answer,
    parser: SseParser,
    decoder: Decoder,
    url: String,
    pub(super) heard: Heard,
}

impl Bench {
    /// A chat of one question, greedy.
    pub(super) fn chat(&self, question: &str, more: &Value) -> Value {
        let messages = json!([{"role": "user", "content": question}]);
        with(json!({"model": self.model, "messages": messages, "temperature": 0}), more)
    }

    /// The body of `/generate/stream`.
    pub(super) fn code(&self, question: &str, more: &Value) -> Value {
        let body = json!({"model": self.model, "user_id": "verify", "model_type": "code_generation", "prompt": question,
                          "temperature": 0});
        with(body, more)
    }

    /// An answer that goes on and on, as plain text. With a penalty each draw follows from all
    /// before it, so that a server which guesses what repeats sends it token by token too.
    pub(super) fn endless(&self) -> Value {
        json!({"model": self.model, "prompt": "1, 2, 3, 4,", "max_tokens": self.long_tokens(), "ignore_eos": true,
               "presence_penalty": 0.1, "temperature": 0, "stream": true})
    }

    /// Opens a stream.
    pub(super) async fn open(&self, api: Api, request: &Request) -> Result<Listening, ClientError> {
        let started = Instant::now();
        let answer = self.client.send(request).await?;
        let content_type = answer.header("content-type").unwrap_or_default().to_owned();
        let request_id = answer.header("x-request-id").map(str::to_owned);
        let is_stream = content_type.starts_with("text/event-stream");
        if !(200..300).contains(&answer.status()) || !is_stream {
            return match answer.events(api).await {
                Err(error) => Err(error),
                Ok(_) => unreachable!("events() refuses what is no stream"),
            };
        }
        let heard = Heard {
            started,
            ended: started,
            content_type,
            request_id,
            raw: Vec::new(),
            events: Vec::new(),
            content: Vec::new(),
            first_text: None,
            finish: None,
            error: None,
        };
        let (parser, decoder) = (SseParser::default(), Decoder::new(api));
        Ok(Listening { answer, parser, decoder, url: self.client.url().to_string(), heard })
    }

    /// Posts a body and reads the stream to its end.
    pub(super) async fn hear(&self, api: Api, body: &Value) -> Result<Heard, ClientError> {
        self.open(api, &Request::post_json(api.path(), body)).await?.finish(None).await
    }

    /// The answer in one piece.
    pub(super) async fn whole(&self, api: Api, body: &Value) -> Result<Value, ClientError> {
        self.client.json(&Request::post_json(api.path(), body)).await
    }
}

impl Listening {
    /// Reads more; false at the end. With a pace, no text is taken before its time: what the server
    /// sends meanwhile waits on its side of the connection.
    pub(super) async fn more(&mut self, pace: Option<Duration>) -> Result<bool, ClientError> {
        let Some((at, bytes)) = self.answer.bytes().await? else {
            self.heard.ended = Instant::now();
            self.parser.finish().map_err(|error| ClientError::Sse { url: self.url.clone(), error })?;
            self.decoder.finish().map_err(|expected| ClientError::EndedEarly { url: self.url.clone(), expected })?;
            return Ok(false);
        };
        self.heard.raw.extend_from_slice(&bytes);
        self.parser.push(&bytes);
        while let Some(event) = self.parser.next_event().map_err(|error| ClientError::Sse { url: self.url.clone(), error })? {
            let mut told = Vec::new();
            self.decoder
                .decode(&event, &mut |event| told.push(event))
                .map_err(|error| ClientError::Decode { url: self.url.clone(), error })?;
            self.heard.events.push(event);
            for event in told {
                self.take(event, at, pace).await;
            }
        }
        Ok(true)
    }

    async fn take(&mut self, event: AnswerEvent, mut at: Instant, pace: Option<Duration>) {
        let heard = &mut self.heard;
        match event {
            AnswerEvent::Content { text, .. } => {
                if let Some(pace) = pace {
                    if let Some(last) = heard.content.last() {
                        tokio::time::sleep_until((last.at + pace).into()).await;
                    }
                    at = Instant::now();
                }
                heard.first_text.get_or_insert(at);
                heard.content.push(TextChunk { at, text });
            }
            AnswerEvent::Reasoning { .. } => _ = heard.first_text.get_or_insert(at),
            AnswerEvent::Finish { reason, .. } => heard.finish = Some(reason),
            AnswerEvent::Error(error) => heard.error = Some(error),
            AnswerEvent::Started { .. } | AnswerEvent::ToolCall { .. } | AnswerEvent::Usage(_) | AnswerEvent::Done => {}
        }
    }

    /// Reads to the end.
    pub(super) async fn finish(mut self, pace: Option<Duration>) -> Result<Heard, ClientError> {
        while self.more(pace).await? {}
        Ok(self.heard)
    }

    /// Reads until so many pieces of text have come.
    pub(super) async fn chunks(&mut self, count: usize) -> Result<(), Halt> {
        while self.heard.content.len() < count {
            if !self.more(None).await? {
                return Err(Halt::Fail(format!(
                    "the answer was over after {} pieces of text; the test needs {count} in the middle of one",
                    self.heard.content.len()
                )));
            }
        }
        Ok(())
    }
}

/// An object with more fields.
pub(super) fn with(mut body: Value, more: &Value) -> Value {
    if let (Some(fields), Some(more)) = (body.as_object_mut(), more.as_object()) {
        fields.extend(more.clone());
    }
    body
}
