//! `/v1/responses`: OpenAI's newer way to ask, in which an answer is a list of items, may be kept,
//! and may be continued by its id.

pub(in crate::http) mod answer;
pub(in crate::http) mod conversations;
mod echoed;
mod items;
pub(in crate::http) mod kept;
pub(in crate::http) mod labels;
pub(in crate::http) mod noted;
mod object;
#[cfg(test)]
mod replay;
mod request;
mod stored;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::budget::{Reserved, Use};
use crate::actors::messages::{Accepted, Refusal, ResponseInput};
use crate::actors::parts::PartReceiver;
use crate::clock;
use crate::http::answer::encoder::{Encoder, to_json};
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::respond;
use crate::http::answer::sealing::Sealing;
use crate::http::body::{ReadBody, away, read_json};
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::responses::answer::ResponsesEncoder;
use crate::http::responses::kept::BackgroundRun;
use crate::http::responses::object::ResponseState;
use crate::http::responses::request::ResponsesRequest;
use crate::http::responses::stored::Saving;
use crate::http::state::{AppState, Sender, access, dialect, response_id};
use crate::http::wire::defaults::Terms;
use crate::http::wire::error::WireError;
use crate::http::wire::history::{InputItem, history};
use crate::http::wire::tools::place_of;
use crate::prompt::conversation::Message;

/// The handler of `POST /v1/responses`.
pub(in crate::http) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    // What a chat refuses is refused here too; the events of this route are the same in each.
    dialect(&request).map_err(|error| state.refused(error.into()))?;
    let id = response_id(&request, "resp_");
    let asked = read(&request, payload, &state, &id).await.map_err(|error| state.refused(error))?;
    let (ReadBody { mut asked, memory }, sender) = asked;
    let kept = state.backend.service.budget().open();
    let saving = saving(&state, &mut asked, &id, access(&request)).map_err(|error| state.refused(error))?;
    let held = asked.echoed.bytes(saving.is_some()) + saving.as_ref().map_or(0, Saving::bytes);
    kept.grow(Use::Request, held).map_err(|none| state.refused(none.into()))?;
    let instructions_bytes = asked.instructions.as_ref().map_or(0, String::len);
    let messages = messages(&state, access(&request), &mut asked, &memory).await.map_err(|error| state.refused(error))?;
    let ResponsesRequest { model, mut conversation, tool_places, generation, streaming, keeping, .. } = asked;
    let prompt_name = prompt_name(instructions_bytes, &messages);
    conversation.messages = messages;
    let inputs = vec![ResponseInput::Chat(conversation)];
    let (coalescing, owner) = (streaming.coalescing, sender.owner);
    let order = respond::order(id.clone(), inputs, &generation, coalescing, sender, memory);
    let accepted = state.backend.service.generate(order).await;
    let Accepted { prompts: reports, parts } = accepted.map_err(|refusal| as_asked(refusal, prompt_name, &tool_places))?;

    let heading = respond::heading(&request, &id, &model);
    let metadata = respond::metadata(&state, &heading, &generation, &reports);
    let progress = AnswerProgress::new(respond::prompt_tokens(&reports), 1);
    let response = ResponseState::new(
        heading,
        metadata,
        asked.echoed.kept(saving.as_ref().is_some_and(|saving| saving.keeps_response), keeping.background),
    );
    let paid = streaming.on.then(|| kept.clone());
    let mut encoder = ResponsesEncoder::new(response, progress, asked.include_reasoning, paid);
    encoder.seal_with(keeping.seals.then(|| Sealing { store: state.options.responses.clone(), owner }));
    encoder.save_as(saving.clone().filter(|_| streaming.on || keeping.background));
    if keeping.background {
        return in_background(state, &id, parts, encoder, saving, kept).await;
    }
    if streaming.on {
        return Ok(respond::in_stream(&request, &state, &id, parts, Encoder::Responses(Box::new(encoder))));
    }
    let gathering = state.backend.service.budget().open();
    let mut whole = respond::gathered(parts, encoder, &gathering).await?;
    let (bytes, is_kept) = (gathering.bytes(), saving.is_some());
    let write = move || {
        let _kept = kept;
        let json = to_json(&whole.object());
        if saving.is_none_or(|saving| saving.save(json.clone(), clock::unix_seconds())) {
            return json;
        }
        whole.set_unkept();
        to_json(&whole.object())
    };
    respond::json_from(gathering, bytes, is_kept, write).await.map(|response| respond::named(response, &id))
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
    id: &str,
) -> Result<(ReadBody<ResponsesRequest>, Sender), ApiError> {
    let id = id.to_owned();
    let understand = move |body, terms: &Terms<'_>| ResponsesRequest::read(body, terms, &id);
    Ok((read_json(request, payload, state, understand).await?, Sender::of(request)?))
}

/// How the response is kept, if it is: nothing is by a server that keeps nothing, which is an error
/// only for what is asked for later.
fn saving(state: &AppState, asked: &mut ResponsesRequest, id: &str, access: Access) -> Result<Option<Saving>, ApiError> {
    let (store, keeping) = (&state.options.responses, &asked.keeping);
    if !store.is_on() {
        let later = [
            ("background", keeping.background),
            ("conversation", keeping.conversation.is_some()),
            ("previous_response_id", keeping.previous.is_some()),
        ];
        if let Some((param, _)) = later.into_iter().find(|(_, is_asked)| *is_asked) {
            let message =
                "this server keeps no responses (--response-store off); send the items of the conversation".to_owned();
            return Err(WireError::Unsupported { param: param.to_owned(), message }.into());
        }
        return Ok(None);
    }
    // The answer says `store: false` then. What is found later alone, and a conversation, which
    // would miss a turn, are refused by the store.
    if store.problem().is_some() && !keeping.background && keeping.conversation.is_none() {
        return Ok(None);
    }
    let Some(input) = asked.input.take() else { return Ok(None) };
    Ok(Some(Saving {
        store: store.clone(),
        id: id.to_owned(),
        access,
        input,
        previous: keeping.previous.clone(),
        conversation: keeping.conversation.clone(),
        keeps_response: keeping.store,
    }))
}

/// The history: what the response that this continues was asked with and said, and what is new.
async fn messages(
    state: &Data<AppState>,
    access: Access,
    asked: &mut ResponsesRequest,
    memory: &Reserved,
) -> Result<Vec<Message>, ApiError> {
    let (instructions, items) = (asked.instructions.take(), std::mem::take(&mut asked.items));
    let (previous, conversation) = (asked.keeping.previous.clone(), asked.keeping.conversation.clone());
    let (store, memory) = (state.options.responses.clone(), memory.clone());
    let is_away =
        previous.is_some() || conversation.is_some() || items.iter().any(|item| matches!(item, InputItem::Reference { .. }));
    let expand = move || {
        let now = clock::unix_seconds();
        let earlier = match (&previous, &conversation) {
            (Some(previous), _) => stored::earlier(&store, access, previous, &memory, now)?,
            (None, Some(conversation)) => conversations::said(&store, access, conversation, &memory, now)?,
            (None, None) => Vec::new(),
        };
        let mut all = Vec::with_capacity(earlier.len() + items.len());
        for item in earlier.into_iter().chain(items) {
            match item {
                InputItem::Reference { id, param } if store.is_on() => {
                    all.extend(stored::referenced(&store, access, &id, &param, now)?);
                }
                item => all.push(item),
            }
        }
        let sealing = Sealing { store, owner: access.key };
        Ok(history(instructions, all, &items::CALLS, |sealed| sealing.open(sealed))?)
    };
    away(is_away, expand).await?
}

/// Answers at once, and generates with no client waiting.
async fn in_background(
    state: Data<AppState>,
    id: &str,
    parts: PartReceiver,
    encoder: ResponsesEncoder,
    saving: Option<Saving>,
    kept: Reserved,
) -> Result<HttpResponse, ApiError> {
    let saving = saving.expect("what is asked for in the background is kept");
    let run = BackgroundRun::begin(state.clone(), id.to_owned());
    let begun = to_json(&encoder.object());
    let answer = begun.clone();
    away(true, move || saving.save_under_way(begun, clock::unix_seconds())).await??;
    actix_rt::spawn(run.finish(parts, encoder, kept));
    Ok(respond::named(kept::answer(answer), id))
}

/// What a prompt that is too long is called: the larger part of it, which is the one to shorten.
fn prompt_name(instructions_bytes: usize, messages: &[Message]) -> &'static str {
    let all_bytes: usize = messages.iter().map(Message::text_bytes).sum();
    if instructions_bytes > all_bytes - instructions_bytes { "instructions" } else { "input" }
}

/// The refusal of a chat by the names of this route's fields: those that stand elsewhere here, and
/// the places of functions among tools that are not served.
fn as_asked(refusal: Refusal, prompt_name: &str, tool_places: &[usize]) -> Refusal {
    let Refusal::Invalid { param: Some(param), code, message } = refusal else { return refusal };
    let here = match param.as_ref() {
        "messages" => prompt_name.to_owned(),
        "max_tokens" => "max_output_tokens".to_owned(),
        other => tool_path(other, tool_places).unwrap_or_else(|| other.to_owned()),
    };
    let message = message.replace(param.as_ref(), &here);
    Refusal::Invalid { param: Some(here.into()), code, message }
}

/// `tools[0].function.parameters…` of the functions alone as the path in the request.
fn tool_path(param: &str, tool_places: &[usize]) -> Option<String> {
    let (place, rest) = place_of(param, tool_places)?;
    // A grammar stands beside its type here.
    Some(format!("tools[{place}]{}", rest.replacen(".format.grammar.", ".format.", 1)))
}

/// The conversation that a body asks for, if it continues none; for the tests of other APIs.
#[cfg(test)]
pub(in crate::http) fn conversation_of(
    body: serde_json::Value,
    terms: &Terms<'_>,
) -> crate::prompt::conversation::Conversation {
    let ResponsesRequest { conversation, instructions, items, .. } =
        ResponsesRequest::read(body, terms, "resp_00ff").expect("a body that can be served");
    let messages = history(instructions, items, &items::CALLS, |_| None).expect("a history");
    crate::prompt::conversation::Conversation { messages, ..conversation }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_called_by_its_larger_part() {
        let user = |content: &str| Message::User { content: content.to_owned() };
        let developer = Message::Developer { content: "Be very brief.".to_owned() };
        assert_eq!(prompt_name(14, &[developer.clone(), user("hi")]), "instructions");
        assert_eq!(prompt_name(14, &[developer, user("hi"), user("What is the time?")]), "input");
        assert_eq!(prompt_name(0, &[user("")]), "input");
    }

    #[test]
    fn a_refusal_names_the_fields_of_this_route() {
        let refused = |param: &'static str| {
            let message = format!("{param} is wrong.");
            match as_asked(Refusal::Invalid { param: Some(param.into()), code: None, message }, "input", &[2, 5]) {
                Refusal::Invalid { param: Some(param), message, .. } => {
                    assert_eq!(message, format!("{param} is wrong."));
                    param.into_owned()
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused("messages"), "input");
        assert_eq!(refused("max_tokens"), "max_output_tokens");
        let too_long = Refusal::Invalid { param: Some("messages".into()), code: None, message: "It is long.".to_owned() };
        let told = as_asked(too_long, "instructions", &[]);
        assert!(matches!(&told, Refusal::Invalid { param: Some(param), .. } if param == "instructions"), "{told:?}");
        assert_eq!(refused("text.format.schema.items"), "text.format.schema.items");
        assert_eq!(refused("tools[1].function.parameters.properties.a"), "tools[5].parameters.properties.a");
        assert_eq!(refused("tools[0].custom.format.grammar.definition"), "tools[2].format.definition");
    }
}
