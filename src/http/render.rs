//! What a request becomes, without an answer: `/v1/chat/completions/render` and
//! `/v1/messages/render` in vLLM's form, and llama.cpp's `/apply-template`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::actors::budget::Reserved;
use crate::actors::messages::{KeyId, Refusal, ResponseInput};
use crate::batch::TokenId;
use crate::http::answer::encoder::to_json;
use crate::http::answer::respond;
use crate::http::body::{ReadBody, read_json};
use crate::http::chat::answer::ids;
use crate::http::chat::request::{BodyRoute, ChatRequest};
use crate::http::errors::ApiError;
use crate::http::state::{AppState, access, response_id};
use crate::http::tokens::TOKEN_BYTES;
use crate::http::wire::sampling::Generation;
use crate::prompt::conversation::Conversation;

/// A request as it would be generated, in vLLM's form, and the text of its prompt.
#[derive(Debug, Serialize)]
struct RenderedRequest {
    request_id: String,
    model: String,
    /// Control tokens by their spelling.
    prompt: String,
    token_ids: Vec<u32>,
    /// Of images: there are none.
    features: Option<()>,
    sampling_params: SamplingParams,
    stream: bool,
    cache_salt: Option<String>,
    priority: i32,
}

/// How it would be drawn, by vLLM's names.
#[derive(Debug, Serialize)]
struct SamplingParams {
    n: u32,
    temperature: f64,
    top_p: f64,
    top_k: u32,
    min_p: f32,
    seed: Option<i64>,
    presence_penalty: f32,
    frequency_penalty: f32,
    repetition_penalty: f32,
    /// As many as were asked for, or as there is room for.
    max_tokens: usize,
    min_tokens: u32,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    ignore_eos: bool,
    logprobs: Option<u32>,
}

impl SamplingParams {
    fn new(generation: &Generation, room: usize) -> Self {
        let (sampling, asked) = (&generation.sampling, generation.max_tokens.map(|count| count as usize));
        Self {
            n: generation.choices_count,
            temperature: generation.written.temperature,
            top_p: generation.written.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed: generation.seed,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            repetition_penalty: sampling.repetition_penalty,
            max_tokens: asked.map_or(room, |asked| if generation.cuts_at_context { asked.min(room) } else { asked }),
            min_tokens: sampling.min_tokens,
            stop: generation.stop_strings.clone(),
            stop_token_ids: ids(&sampling.stop_tokens),
            ignore_eos: generation.ignore_eos,
            logprobs: sampling.logprobs,
        }
    }
}

/// A request that is to be rendered.
#[derive(Debug)]
pub(super) struct Renderable {
    pub(super) request_id: String,
    pub(super) model: String,
    pub(super) conversation: Conversation,
    pub(super) generation: Generation,
    /// It asks for a stream.
    pub(super) stream: bool,
    pub(super) owner: KeyId,
    pub(super) memory: Reserved,
}

/// The handler of `POST /v1/chat/completions/render`.
pub(super) async fn chat(request: HttpRequest, payload: Payload, state: Data<AppState>) -> Result<HttpResponse, ApiError> {
    answer(state.clone(), read(&request, payload, &state).await?, |refusal| refusal).await
}

/// The handler of `POST /apply-template`: the text alone.
pub(super) async fn apply_template(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    #[derive(Serialize)]
    struct Template {
        prompt: String,
    }
    let Renderable { conversation, owner, memory, .. } = read(&request, payload, &state).await?;
    let tokens = state.backend.service.tokenize(ResponseInput::Chat(conversation), owner, Some(memory.clone())).await?;
    let bytes = TOKEN_BYTES * tokens.len() as u64;
    respond::json(memory, bytes, move || to_json(&Template { prompt: text(&state, &tokens) })).await
}

async fn read(request: &HttpRequest, payload: Payload, state: &Data<AppState>) -> Result<Renderable, ApiError> {
    let chat = read_json(request, payload, state, |body, terms| ChatRequest::read(body, BodyRoute::Chat, terms)).await?;
    let ReadBody { asked: ChatRequest { model, conversation, generation, streaming, .. }, memory } = chat;
    let (request_id, owner, stream) = (response_id(request, "chatcmpl-"), access(request).key, streaming.on);
    Ok(Renderable { request_id, model, conversation, generation, stream, owner, memory })
}

/// What `asked` becomes; `as_asked` says a refusal by the names of the route's fields.
pub(super) async fn answer(
    state: Data<AppState>,
    asked: Renderable,
    as_asked: impl FnOnce(Refusal) -> Refusal,
) -> Result<HttpResponse, ApiError> {
    let Renderable { request_id, model, conversation, generation, stream, owner, memory } = asked;
    let tokens = state.backend.service.tokenize(ResponseInput::Chat(conversation), owner, Some(memory.clone())).await;
    let tokens = tokens.map_err(as_asked)?;
    let room = state.terms()?.context_tokens_max.saturating_sub(tokens.len());
    let bytes = 2 * TOKEN_BYTES * tokens.len() as u64;
    let write = move || {
        to_json(&RenderedRequest {
            request_id,
            model,
            prompt: text(&state, &tokens),
            token_ids: ids(&tokens),
            features: None,
            sampling_params: SamplingParams::new(&generation, room),
            stream,
            cache_salt: generation.cache_salt,
            priority: generation.priority,
        })
    };
    respond::json(memory, bytes, write).await
}

/// The text of tokens, control tokens by their spelling.
fn text(state: &AppState, tokens: &[TokenId]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| state.backend.service.token_bytes(*token)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
