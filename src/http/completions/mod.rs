//! `POST /v1/completions`.

pub(in crate::http) mod answer;
pub(in crate::http) mod request;

use std::sync::Arc;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::budget::Reserved;
use crate::actors::messages::{Accepted, PromptReport, ResponseInput};
use crate::http::answer::encoder::Encoder;
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::respond;
use crate::http::answer::whole::GatheredAnswer;
use crate::http::body::{ReadBody, read_json};
use crate::http::completions::answer::{CompletionAnswer, CompletionEncoder, ShownPrompt};
use crate::http::completions::request::CompletionRequest;
use crate::http::errors::ApiError;
use crate::http::state::{AppState, Sender, response_id};

/// The handler.
pub(in crate::http) async fn completions(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (ReadBody { asked, memory }, sender) = read(&request, payload, &state).await.map_err(|error| state.refused(error))?;
    let id = response_id(&request, "cmpl-");
    let CompletionRequest { generation, streaming, .. } = &asked;

    let order = respond::order(id.clone(), asked.prompts.clone(), generation, streaming.coalescing, sender, memory.clone());
    let Accepted { prompts: reports, parts } = state.backend.service.generate(order).await?;
    let heading = respond::heading(&request, &id, &asked.model);
    let metadata = respond::metadata(&state, &heading, generation, &reports);
    let choices_count = reports.len() * generation.choices_count as usize;
    let progress = AnswerProgress::new(respond::prompt_tokens(&reports), choices_count).of_prompts(reports.len());
    let answer = CompletionAnswer {
        heading,
        metadata,
        prompts: prompts(&state, &asked, &reports, &memory).await?,
        choices_a_prompt: generation.choices_count as usize,
        prompt_only: asked.prompt_only,
        lists: asked.lists,
    };
    if !streaming.on {
        let gathered = GatheredAnswer::new(progress).listing_all(asked.lists.ids);
        return respond::in_one_piece(&state, &id, parts, gathered, move |whole| answer.whole(whole)).await;
    }
    let encoder = CompletionEncoder::new(answer, progress, streaming.include_usage, streaming.continuous_usage);
    Ok(respond::in_stream(&request, &state, &id, parts, Encoder::Completion(Box::new(encoder))))
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
) -> Result<(ReadBody<CompletionRequest>, Sender), ApiError> {
    Ok((read_json(request, payload, state, CompletionRequest::read).await?, Sender::of(request)?))
}

/// The prompts as the answer shows them; the text of tokens is only made if it is to be echoed.
async fn prompts(
    state: &AppState,
    asked: &CompletionRequest,
    reports: &[Arc<PromptReport>],
    memory: &Reserved,
) -> Result<Vec<ShownPrompt>, ApiError> {
    let mut prompts = Vec::with_capacity(reports.len());
    for (input, report) in asked.prompts.iter().zip(reports) {
        let echo = match input {
            _ if !asked.echo => None,
            ResponseInput::Text(text) if report.tokens.len() == report.uncut_tokens => Some(text.clone()),
            ResponseInput::Text(_) | ResponseInput::Tokens(_) => {
                Some(state.backend.service.detokenize(report.tokens.to_vec(), Some(memory.clone())).await?)
            }
            ResponseInput::Chat(_) => unreachable!("a text completion has no chats"),
        };
        let first_token = report.tokens.first().map(|first| state.backend.service.token_bytes(*first)).unwrap_or_default();
        prompts.push(ShownPrompt { tokens: report.tokens.clone(), echo, first_token });
    }
    Ok(prompts)
}
