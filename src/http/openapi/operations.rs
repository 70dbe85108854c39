//! What each route takes and gives, in words: the part of the document that is said by hand. A test
//! holds it against the route table.

use super::requests::BodyForm;

/// A method of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// As the route table has it.
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) body: Option<BodyForm>,
    /// Names of the document's parameters.
    pub(super) parameters: &'static [&'static str],
    pub(super) answer: OperationAnswer,
    /// Statuses beside 200 and those of [`EVERY`].
    pub(super) statuses: &'static [u16],
}

/// What a success holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum OperationAnswer {
    /// JSON of the schema with this name.
    Json(&'static str),
    /// The same, or a stream of events if the request asks for one.
    JsonOrEvents(&'static str),
    /// A stream of events.
    Events,
    /// Bytes of this type.
    Bytes(&'static str),
}

/// Statuses of every operation: a bad request, no key, a name or a key that opens less, a head that
/// is too slow or too large, a bug.
pub(super) const EVERY: [u16; 6] = [400, 401, 403, 408, 431, 500];
/// Those of one that reads a body, or waits for an actor.
const BODY: &[u16] = &[404, 413, 415, 503];
/// Those of one that generates.
const GENERATES: &[u16] = &[404, 413, 415, 429, 503];
/// Those of Anthropic's API, which has a status of its own for too much work.
const MESSAGES: &[u16] = &[404, 413, 415, 429, 503, 529];
/// Those of what is kept.
const KEPT: &[u16] = &[404, 413, 415, 503];
const PROBE: &[u16] = &[503];
const FILE: &[u16] = &[304, 404];

const PAGE: &[&str] = &["limit", "order", "after"];
const FILES: &[&str] = &["purpose", "limit", "order", "after"];
const DIALECT: &[&str] = &["X-Request-Id", "X-Session-ID", "X-SSE-Dialect"];
const SESSION: &[&str] = &["X-Request-Id", "X-Session-ID"];

const fn reads(path: &'static str, tag: &'static str, summary: &'static str, answer: OperationAnswer) -> Operation {
    Operation { method: "get", path, tag, summary, body: None, parameters: &[], answer, statuses: &[] }
}

const fn posts(
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    body: BodyForm,
    answer: OperationAnswer,
) -> Operation {
    Operation { method: "post", path, tag, summary, body: Some(body), parameters: &[], answer, statuses: BODY }
}

const fn deletes(path: &'static str, tag: &'static str, summary: &'static str) -> Operation {
    Operation { method: "delete", path, tag, summary, body: None, parameters: &[], answer: Json("Deleted"), statuses: KEPT }
}

impl Operation {
    const fn with(self, statuses: &'static [u16]) -> Self {
        Self { statuses, ..self }
    }

    const fn asking(self, parameters: &'static [&'static str]) -> Self {
        Self { parameters, ..self }
    }
}

use OperationAnswer::{Bytes, Events, Json, JsonOrEvents};

/// The operations, in the order of the page.
pub(super) const OPERATIONS: &[Operation] = &[
    posts("/v1/chat/completions", "Chat", "Answer a conversation", BodyForm::Chat, JsonOrEvents("ChatCompletion"))
        .with(GENERATES)
        .asking(DIALECT),
    posts("/v1/chat/completions/render", "Chat", "The prompt that a conversation becomes", BodyForm::Chat, Json("Rendered")),
    posts("/apply-template", "Chat", "The text of that prompt alone", BodyForm::Chat, Json("Text")),
    posts("/v1/completions", "Completions", "Continue texts or token ids", BodyForm::Completion, JsonOrEvents("Completion"))
        .with(GENERATES)
        .asking(SESSION),
    posts("/v1/responses", "Responses", "Answer with a list of items", BodyForm::Response, JsonOrEvents("Response"))
        .with(GENERATES)
        .asking(SESSION),
    reads("/v1/responses/{id}", "Responses", "A response that was kept", Json("Response")).with(KEPT).asking(&["stream"]),
    deletes("/v1/responses/{id}", "Responses", "Forget a response"),
    posts("/v1/responses/{id}/cancel", "Responses", "Call off a response of the background", BodyForm::None, Json("Response"))
        .with(KEPT),
    reads("/v1/responses/{id}/input_items", "Responses", "What a response was asked with", Json("ItemList"))
        .with(KEPT)
        .asking(PAGE),
    posts("/v1/conversations", "Conversations", "Begin a conversation", BodyForm::Conversation, Json("Conversation"))
        .with(KEPT),
    reads("/v1/conversations/{id}", "Conversations", "A conversation, without its items", Json("Conversation")).with(KEPT),
    posts("/v1/conversations/{id}", "Conversations", "Change its labels", BodyForm::Labels, Json("Conversation")).with(KEPT),
    deletes("/v1/conversations/{id}", "Conversations", "Forget a conversation"),
    reads("/v1/conversations/{id}/items", "Conversations", "Its items", Json("ItemList")).with(KEPT).asking(PAGE),
    posts("/v1/conversations/{id}/items", "Conversations", "Add items", BodyForm::Items, Json("ItemList")).with(KEPT),
    reads("/v1/conversations/{id}/items/{item}", "Conversations", "One item", Json("Item")).with(KEPT),
    Operation {
        answer: Json("Conversation"),
        ..deletes("/v1/conversations/{id}/items/{item}", "Conversations", "Remove one item")
    },
    posts("/v1/files", "Batches", "Keep a file of requests", BodyForm::File, Json("File")).with(KEPT),
    reads("/v1/files", "Batches", "The files", Json("ItemList")).with(KEPT).asking(FILES),
    reads("/v1/files/{id}", "Batches", "What a file is", Json("File")).with(KEPT),
    reads("/v1/files/{id}/content", "Batches", "What a file holds", Bytes("application/octet-stream")).with(KEPT),
    deletes("/v1/files/{id}", "Batches", "Forget a file"),
    posts("/v1/batches", "Batches", "Answer the requests of a file", BodyForm::Batch, Json("Batch")).with(KEPT),
    reads("/v1/batches", "Batches", "The batches", Json("ItemList")).with(KEPT).asking(PAGE),
    reads("/v1/batches/{id}", "Batches", "A batch, as far as it is", Json("Batch")).with(KEPT),
    posts("/v1/batches/{id}/cancel", "Batches", "Call off a batch", BodyForm::None, Json("Batch")).with(KEPT),
    posts("/v1/messages", "Messages", "Answer as Anthropic's API does", BodyForm::Message, JsonOrEvents("Message"))
        .with(MESSAGES)
        .asking(SESSION),
    posts("/v1/messages/count_tokens", "Messages", "Count a prompt's tokens", BodyForm::CountedMessage, Json("TokensCount"))
        .with(MESSAGES),
    posts("/v1/messages/render", "Messages", "The prompt that a message becomes", BodyForm::Message, Json("Rendered"))
        .with(MESSAGES),
    posts("/tokenize", "Tokens", "The tokens of a text or a chat", BodyForm::Tokenize, Json("Tokens")),
    posts("/detokenize", "Tokens", "The text of tokens", BodyForm::Detokenize, Json("Text")),
    posts(
        "/generate",
        "Predecessors",
        "A chat or a prompt, as typed events",
        BodyForm::Generate,
        JsonOrEvents("ChatCompletion"),
    )
    .with(GENERATES)
    .asking(SESSION),
    posts("/generate/stream", "Predecessors", "A prompt for code, as a stream of texts", BodyForm::Code, Events)
        .with(GENERATES)
        .asking(SESSION),
    posts("/cancel/{request_id}", "Requests", "End a request by its id", BodyForm::None, Json("Cancelled")),
    reads("/v1/models", "Models", "The model under its names", Json("ModelList")),
    reads("/v1/models/{model:.+}", "Models", "The model under one name", Json("Model")).with(&[404]),
    reads("/models", "Models", "The same as /v1/models", Json("ModelList")),
    reads("/version", "Models", "Which build answers", Json("Version")),
    reads("/health", "Health", "Whether the server is well, for people", Json("Health")).with(PROBE),
    reads("/health/live", "Health", "Whether only a restart would help", Json("Status")).with(PROBE),
    reads("/health/ready", "Health", "Whether requests should come here", Json("Status")).with(PROBE),
    reads("/health_generate", "Health", "Whether a token is really generated", Json("Status")).with(PROBE),
    reads("/stats", "Operations", "Counts and latencies", Json("Object")),
    reads("/metrics", "Operations", "The same for Prometheus", Bytes("text/plain")).asking(&["names"]),
    reads("/memory_stats", "Operations", "What memory is used", Json("Object")),
    reads("/server_info", "Operations", "The server in SGLang's form", Json("Object")),
    reads("/get_server_info", "Operations", "Its older name", Json("Object")),
    reads("/model_info", "Operations", "The model in SGLang's form", Json("Object")),
    reads("/get_model_info", "Operations", "Its older name", Json("Object")),
    reads("/v1/loads", "Operations", "The load in SGLang's form", Json("Object")),
    reads("/get_load", "Operations", "Its older form", Json("Array")),
    reads("/admin/debug/bundle", "Operations", "All that a report of a fault needs, for an admin", Json("Object")),
    reads("/debug/timeline", "Operations", "The last steps as a trace, for an admin", Json("Object")),
    reads("/console/live", "Operations", "What the console of the page shows", Json("Object")),
    reads("/openapi.json", "Page", "This document", Json("Object")),
    reads("/", "Page", "The page: a chat and a console", Bytes("text/html")).with(FILE),
    reads("/docs", "Page", "This document as a page", Bytes("text/html")).with(FILE),
    reads("/page/settings.json", "Page", "What the page must know before it has a key", Json("Object")),
    reads("/page/{file}", "Page", "A file of the page", Bytes("*/*")).with(FILE),
];
