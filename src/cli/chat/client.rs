//! The few calls of OpenAI's protocol that a talk needs.

use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

/// A message of the talk.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) role: &'static str,
    pub(super) content: String,
}

/// A piece of an answer.
pub(super) enum Piece<'a> {
    Reasoning(&'a str),
    Content(&'a str),
}

/// A server to talk to.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
}

impl Client {
    pub(super) fn new(url: &str, key: Option<String>) -> Self {
        // No limit on reading: the first token of a long prompt may take minutes.
        let agent = ureq::AgentBuilder::new().timeout_connect(Duration::from_secs(10)).build();
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        Self { agent, url, key: key.filter(|key| !key.is_empty()) }
    }

    fn request(&self, method: &str, path: &str) -> ureq::Request {
        let request = self.agent.request(method, &format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.set("authorization", &format!("Bearer {key}")),
            None => request,
        }
    }

    /// The model that the server has.
    pub(super) fn model(&self) -> anyhow::Result<String> {
        let response = self.request("GET", "/v1/models").call().map_err(|error| self.refusal(error))?;
        let text = response.into_string().map_err(|error| anyhow!("{}: {error}", self.url))?;
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        let model = list["data"][0]["id"].as_str();
        model
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{}/v1/models names no model; expected a server like OpenAI's", self.url))
    }

    /// Asks for the next message, and hands over its pieces as they come.
    pub(super) fn stream(
        &self,
        model: &str,
        turns: &[Turn],
        take: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let messages: Vec<Value> = turns.iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect();
        let body = json!({"model": model, "messages": messages, "stream": true}).to_string();
        let request = self.request("POST", "/v1/chat/completions").set("content-type", "application/json");
        let response = request.send_string(&body).map_err(|error| self.refusal(error))?;
        for line in BufReader::new(response.into_reader()).lines() {
            let line = line.map_err(|error| anyhow!("{} broke off: {error}", self.url))?;
            let Some(event) = line.strip_prefix("data: ") else { continue };
            if event == "[DONE]" {
                return Ok(());
            }
            let event: Value =
                serde_json::from_str(event).map_err(|error| anyhow!("{} sent an event that is no JSON: {error}", self.url))?;
            if let Some(message) = event["error"]["message"].as_str() {
                bail!("{message}");
            }
            let delta = &event["choices"][0]["delta"];
            let taken = match (delta["reasoning"].as_str(), delta["content"].as_str()) {
                (Some(text), _) if !text.is_empty() => take(Piece::Reasoning(text)),
                (_, Some(text)) => take(Piece::Content(text)),
                _ => Ok(()),
            };
            taken.map_err(|error| anyhow!("standard output: {error}"))?;
        }
        bail!("{} ended its answer before [DONE]", self.url)
    }

    /// What the server, or the way to it, says instead of an answer.
    fn refusal(&self, error: ureq::Error) -> anyhow::Error {
        match error {
            ureq::Error::Status(status, response) => {
                let body: Value =
                    response.into_string().ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                let message = body["error"]["message"].as_str().unwrap_or("without a reason").to_owned();
                anyhow!("{} answers {status}: {message}", self.url)
            }
            ureq::Error::Transport(transport) => {
                let reason = transport.message().unwrap_or("no answer");
                anyhow!("{}: {} ({reason}); expected a server there, `antiphon serve` starts one", self.url, transport.kind())
            }
        }
    }
}
