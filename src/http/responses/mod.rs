//! `POST /v1/responses`: OpenAI's newer way to ask, in which an answer is a list of items.

pub(in crate::http) mod answer;
mod echoed;
mod items;
mod object;
#[cfg(test)]
mod replay;
mod request;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::budget::Use;
use crate::actors::messages::{Accepted, Refusal, ResponseInput};
use crate::http::answer::encoder::{Encoder, to_json};
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::respond;
use crate::http::body::{ReadBody, read_json};
use crate::http::errors::ApiError;
use crate::http::responses::answer::ResponsesEncoder;
use crate::http::responses::object::ResponseState;
use crate::http::responses::request::ResponsesRequest;
use crate::http::state::{AppState, Sender, response_id};

/// The handler.
pub(in crate::http) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (ReadBody { asked, memory }, sender) = read(&request, payload, &state).await.map_err(|error| state.refused(error))?;
    let ResponsesRequest { model, conversation, tool_places, generation, streaming, include_reasoning, echoed } = asked;
    let budget = state.backend.service.budget();
    let kept = budget.reserve(Use::Request, echoed.bytes()).map_err(|none| state.refused(none.into()))?;
    let id = response_id(&request, "resp_");
    let inputs = vec![ResponseInput::Chat(conversation)];
    let order = respond::order(id.clone(), inputs, &generation, streaming.coalescing, sender, memory);
    let accepted = state.backend.service.generate(order).await;
    let Accepted { prompts: reports, parts } = accepted.map_err(|refusal| as_asked(refusal, &tool_places))?;

    let heading = respond::heading(&id, &model);
    let metadata = respond::metadata(&state, &heading, &generation, &reports);
    let progress = AnswerProgress::new(respond::prompt_tokens(&reports), 1);
    let response = ResponseState::new(heading, metadata, echoed);
    if streaming.on {
        let encoder = ResponsesEncoder::new(response, progress, include_reasoning, Some(kept));
        return Ok(respond::in_stream(&request, &state, &id, parts, Encoder::Responses(Box::new(encoder))));
    }
    let encoder = ResponsesEncoder::new(response, progress, include_reasoning, None);
    respond::in_one_piece(&state, &id, parts, encoder, move |whole| {
        let _kept = kept;
        to_json(&whole.object())
    })
    .await
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
) -> Result<(ReadBody<ResponsesRequest>, Sender), ApiError> {
    Ok((read_json(request, payload, state, ResponsesRequest::read).await?, Sender::of(request)?))
}

/// The refusal of a chat by the names of this route's fields: those that stand elsewhere here, and
/// the places of functions among tools that are not served.
fn as_asked(refusal: Refusal, tool_places: &[usize]) -> Refusal {
    let Refusal::Invalid { param: Some(param), code, message } = refusal else { return refusal };
    let here = match param.as_ref() {
        "messages" => "input".to_owned(),
        "max_tokens" => "max_output_tokens".to_owned(),
        other => tool_path(other, tool_places).unwrap_or_else(|| other.to_owned()),
    };
    let message = message.replace(param.as_ref(), &here);
    Refusal::Invalid { param: Some(here.into()), code, message }
}

/// `tools[0].function.parameters…` of the functions alone as the path in the request.
fn tool_path(param: &str, tool_places: &[usize]) -> Option<String> {
    let (index, rest) = param.strip_prefix("tools[")?.split_once("].function")?;
    let place = tool_places.get(index.parse::<usize>().ok()?)?;
    Some(format!("tools[{place}]{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_fields_of_this_route() {
        let refused = |param: &'static str| {
            let message = format!("{param} is wrong.");
            match as_asked(Refusal::Invalid { param: Some(param.into()), code: None, message }, &[2, 5]) {
                Refusal::Invalid { param: Some(param), message, .. } => {
                    assert_eq!(message, format!("{param} is wrong."));
                    param.into_owned()
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused("messages"), "input");
        assert_eq!(refused("max_tokens"), "max_output_tokens");
        assert_eq!(refused("text.format.schema.items"), "text.format.schema.items");
        assert_eq!(refused("tools[1].function.parameters.properties.a"), "tools[5].parameters.properties.a");
    }
}
