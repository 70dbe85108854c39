//! `/v1/messages`: Anthropic's API, in which an answer is a list of blocks.

pub(in crate::http) mod answer;
mod blocks;
pub(in crate::http) mod error;
pub(in crate::http) mod noted;
#[cfg(test)]
mod replay;
mod request;
#[cfg(test)]
mod same_prompt_tests;
mod tools;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::messages::{Accepted, Refusal, ResponseInput};
use crate::http::answer::encoder::{Encoder, to_json};
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::respond;
use crate::http::answer::sealing::Sealing;
use crate::http::body::{ReadBody, read_json};
use crate::http::errors::ApiError;
use crate::http::messages::answer::{MessagesEncoder, TokensCount};
use crate::http::messages::request::{MessagesRequest, MessagesRoute};
use crate::http::render::{self, Renderable};
use crate::http::state::{AppState, Sender, access, dialect, response_id};
use crate::http::wire::defaults::Terms;
use crate::http::wire::tools::place_of;

/// Bytes of an answer that is a number.
const COUNT_BYTES: u64 = 64;

/// The handler of `POST /v1/messages`.
pub(in crate::http) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let asked = read(&request, payload, &state, MessagesRoute::Create).await.map_err(|error| state.refused(error))?;
    let (ReadBody { asked, memory }, sender) = asked;
    let MessagesRequest { model, conversation, tool_places, generation, streaming, thinking } = asked;
    let id = response_id(&request, "msg_");
    let sealing = Sealing { store: state.options.responses.clone(), owner: sender.owner };
    let inputs = vec![ResponseInput::Chat(conversation)];
    let order = respond::order(id.clone(), inputs, &generation, streaming.coalescing, sender, memory);
    let accepted = state.backend.service.generate(order).await;
    let Accepted { prompts: reports, parts } = accepted.map_err(|refusal| as_asked(refusal, &tool_places))?;

    let heading = respond::heading(&request, &id, &model);
    let metadata = respond::metadata(&state, &heading, &generation, &reports);
    let progress = AnswerProgress::new(respond::prompt_tokens(&reports), 1);
    let paid = streaming.on.then(|| state.backend.service.budget().open());
    let mut encoder = MessagesEncoder::new(heading, metadata, progress, thinking, sealing, paid);
    encoder.cut_after(generation.max_tokens);
    if streaming.on {
        return Ok(respond::in_stream(&request, &state, &id, parts, Encoder::Messages(Box::new(encoder))));
    }
    respond::in_one_piece(&state, &id, parts, encoder, |encoder| to_json(&encoder.object())).await
}

/// The handler of `POST /v1/messages/render`.
pub(in crate::http) async fn render(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (ReadBody { asked, memory }, sender) = read(&request, payload, &state, MessagesRoute::Create).await?;
    let MessagesRequest { model, conversation, tool_places, generation, streaming, .. } = asked;
    let (request_id, stream, owner) = (response_id(&request, "msg_"), streaming.on, sender.owner);
    let asked = Renderable { request_id, model, conversation, generation, stream, owner, memory };
    render::answer(state, asked, |refusal| as_asked(refusal, &tool_places)).await
}

/// The handler of `POST /v1/messages/count_tokens`.
pub(in crate::http) async fn count_tokens(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (ReadBody { asked, memory }, sender) = read(&request, payload, &state, MessagesRoute::Count).await?;
    let input = ResponseInput::Chat(asked.conversation);
    let tokens = state.backend.service.tokenize(input, sender.owner, Some(memory.clone())).await;
    let input_tokens = tokens.map_err(|refusal| as_asked(refusal, &asked.tool_places))?.len();
    respond::json(memory, COUNT_BYTES, move || to_json(&TokensCount { input_tokens })).await
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
    route: MessagesRoute,
) -> Result<(ReadBody<MessagesRequest>, Sender), ApiError> {
    // What a chat refuses is refused here too; the events of this route are the same in each.
    dialect(request)?;
    let sealing = Sealing { store: state.options.responses.clone(), owner: access(request).key };
    let understand = move |body, terms: &Terms<'_>| MessagesRequest::read(body, route, terms, |sealed| sealing.open(sealed));
    Ok((read_json(request, payload, state, understand).await?, Sender::of(request)?))
}

/// The refusal of a chat by the names of this route's fields, and in words that its clients know.
fn as_asked(refusal: Refusal, tool_places: &[usize]) -> Refusal {
    let Refusal::Invalid { param: Some(param), code, message } = refusal else { return refusal };
    if code == Some("context_length_exceeded") {
        return Refusal::Invalid { param: Some(param), code, message: format!("prompt is too long: {message}") };
    }
    let Some((place, rest)) = place_of(&param, tool_places) else {
        return Refusal::Invalid { param: Some(param), code, message };
    };
    let rest = rest.strip_prefix(".parameters").map_or(rest.to_owned(), |rest| format!(".input_schema{rest}"));
    let here = format!("tools[{place}]{rest}");
    let message = message.replace(param.as_ref(), &here);
    Refusal::Invalid { param: Some(here.into()), code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_fields_of_this_route() {
        let refused = |param: &'static str, code| {
            let message = format!("{param} is wrong.");
            match as_asked(Refusal::Invalid { param: Some(param.into()), code, message }, &[2, 5]) {
                Refusal::Invalid { param: Some(param), message, .. } => (param.into_owned(), message),
                other => panic!("{other:?}"),
            }
        };
        let here = "tools[5].input_schema.properties.a";
        let told = refused("tools[1].function.parameters.properties.a", None);
        assert_eq!(told, (here.to_owned(), format!("{here} is wrong.")));
        let long = refused("messages", Some("context_length_exceeded"));
        assert_eq!(long, ("messages".to_owned(), "prompt is too long: messages is wrong.".to_owned()));
        let form = "output_config.format.schema.not";
        assert_eq!(refused(form, None), (form.to_owned(), format!("{form} is wrong.")));
    }
}
