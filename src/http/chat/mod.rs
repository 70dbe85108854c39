//! `POST /v1/chat/completions`, and what `/generate` shares with it.

pub(in crate::http) mod answer;
pub(in crate::http) mod calls;
pub(in crate::http) mod messages;
pub(in crate::http) mod request;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::messages::{Accepted, ResponseInput};
use crate::http::answer::encoder::Encoder;
use crate::http::answer::progress::AnswerProgress;
use crate::http::answer::respond;
use crate::http::answer::whole::GatheredAnswer;
use crate::http::body::{ReadBody, read_json};
use crate::http::chat::answer::{ChatAnswer, ChatEncoder, Shown};
use crate::http::chat::calls::CallStyle;
use crate::http::chat::request::{BodyRoute, ChatRequest};
use crate::http::errors::ApiError;
use crate::http::legacy::event_answer::EventEncoder;
use crate::http::state::{AppState, Sender, dialect, response_id};
use crate::http::wire::error::WireError;
use crate::http::wire::streaming::Dialect;

/// How a chat is answered: in which dialect a stream speaks, and whether its events have names.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Manner {
    pub(in crate::http) form: BodyRoute,
    pub(in crate::http) dialect: Dialect,
    pub(in crate::http) named_events: bool,
    pub(in crate::http) id_prefix: &'static str,
}

/// The handler.
pub(in crate::http) async fn completions(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let asked = dialect(&request).map_err(|error| state.refused(error.into()))?;
    let dialect = asked.unwrap_or(state.options.dialect);
    answer(request, payload, state, Manner { form: BodyRoute::Chat, dialect, named_events: false, id_prefix: "chatcmpl-" })
        .await
}

/// Answers a chat.
pub(in crate::http) async fn answer(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
    manner: Manner,
) -> Result<HttpResponse, ApiError> {
    let asked = read(&request, payload, &state, manner).await.map_err(|error| state.refused(error))?;
    let (ReadBody { asked, memory }, sender) = asked;
    let ChatRequest { model, conversation, generation, streaming, lists, include_reasoning, call_style } = asked;
    let id = response_id(&request, manner.id_prefix);
    let order =
        respond::order(id.clone(), vec![ResponseInput::Chat(conversation)], &generation, streaming.coalescing, sender, memory);
    let Accepted { prompts: reports, parts } = state.backend.service.generate(order).await?;

    let heading = respond::heading(&request, &id, &model);
    let metadata = respond::metadata(&state, &heading, &generation, &reports);
    let progress = AnswerProgress::new(respond::prompt_tokens(&reports), generation.choices_count as usize);
    let token_ids = respond::token_ids(lists.ids, &reports[0]);
    let shown = Shown { reasoning: include_reasoning, call_style, lists, as_predecessor: manner.dialect != Dialect::OpenAi };
    if !streaming.on {
        let answer = ChatAnswer { heading, metadata, token_ids, shown };
        let gathered = GatheredAnswer::new(progress).listing_all(lists.ids);
        return respond::in_one_piece(&state, &id, parts, gathered, move |whole| answer.whole(whole)).await;
    }
    let include_usage = streaming.include_usage;
    let encoder = match manner.dialect {
        Dialect::Events => {
            let named = manner.named_events;
            Encoder::Events(Box::new(EventEncoder { heading, metadata, progress, include_usage, named }))
        }
        Dialect::OpenAi | Dialect::Both => Encoder::Chat(Box::new(ChatEncoder {
            answer: ChatAnswer { heading, metadata, token_ids, shown },
            progress,
            include_usage,
            continuous_usage: streaming.continuous_usage,
            typed: manner.dialect == Dialect::Both,
        })),
    };
    Ok(respond::in_stream(&request, &state, &id, parts, encoder))
}

async fn read(
    request: &HttpRequest,
    payload: Payload,
    state: &Data<AppState>,
    manner: Manner,
) -> Result<(ReadBody<ChatRequest>, Sender), ApiError> {
    let chat = read_json(request, payload, state, move |body, terms| ChatRequest::read(body, manner.form, terms)).await?;
    let ChatRequest { streaming, generation, conversation, call_style, .. } = &chat.asked;
    if streaming.on {
        let field = if *call_style == CallStyle::Function { "functions" } else { "tools" };
        let tools = (!conversation.tools.is_empty()).then_some(field);
        check_dialect(manner.dialect, generation.choices_count, tools)?;
    }
    Ok((chat, Sender::of(request)?))
}

/// The typed events know one choice and no calls, of which there may be some if `tools`, the field
/// that offers them, is there.
fn check_dialect(dialect: Dialect, choices_count: u32, tools: Option<&'static str>) -> Result<(), WireError> {
    let refused = match dialect {
        Dialect::OpenAi => None,
        Dialect::Both | Dialect::Events if choices_count > 1 => Some(("n", "more than one choice")),
        Dialect::Events => tools.map(|field| (field, "function calls")),
        Dialect::Both => None,
    };
    match refused {
        None => Ok(()),
        Some((param, what)) => {
            let message = format!("a stream of typed events cannot carry {what}");
            Err(WireError::Unsupported { param: param.to_owned(), message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_events_carry_one_choice_and_alone_no_calls() {
        let refused = |dialect, choices_count, tools| match check_dialect(dialect, choices_count, tools) {
            Ok(()) => None,
            Err(WireError::Unsupported { param, .. }) => Some(param),
            Err(other) => panic!("{other}"),
        };
        for (dialect, one, one_with_tools, two) in [
            (Dialect::OpenAi, None, None, None),
            (Dialect::Both, None, None, Some("n")),
            (Dialect::Events, None, Some("tools"), Some("n")),
        ] {
            assert_eq!(refused(dialect, 1, None).as_deref(), one, "{dialect:?}");
            assert_eq!(refused(dialect, 1, Some("tools")).as_deref(), one_with_tools, "{dialect:?}");
            assert_eq!(refused(dialect, 2, Some("tools")).as_deref(), two, "{dialect:?}");
        }
    }
}
