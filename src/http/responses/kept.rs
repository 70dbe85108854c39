//! `/v1/responses/{id}`: responses that were kept, asked for again, forgotten, or called off.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::actors::budget::{MEMORY_FULL, Reserved, Use};
use crate::actors::parts::PartReceiver;
use crate::clock;
use crate::http::answer::stream::lost;
use crate::http::answer::whole::{Broken, Gather};
use crate::http::body::away;
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::responses::answer::ResponsesEncoder;
use crate::http::responses::object::ResponseFailure;
use crate::http::responses::stored::{self, KeptResponse};
use crate::http::state::{AppState, access};
use crate::http::wire::error::{ErrorObject, WireError, quoted};

/// How long a response that is called off may take to be kept as such.
const CANCEL_MAX: Duration = Duration::from_secs(10);
/// Most items of a page, and as many as come unasked.
const PAGE_MAX: usize = 100;
const PAGE_UNASKED: usize = 20;

/// The responses that are generated with no client waiting.
#[derive(Debug, Default)]
pub(in crate::http) struct BackgroundRuns(Mutex<HashMap<String, watch::Receiver<()>>>);

/// A response that is generated with no client waiting; dropped, it has ended.
#[derive(Debug)]
pub(in crate::http) struct BackgroundRun {
    state: Data<AppState>,
    id: String,
    /// Closed when this is dropped: that is what others wait for.
    _ended: watch::Sender<()>,
}

impl BackgroundRun {
    /// The run of the response `id`.
    pub(in crate::http) fn begin(state: Data<AppState>, id: String) -> Self {
        let (ended, waiting) = watch::channel(());
        state.background.locked().insert(id.clone(), waiting);
        Self { state, id, _ended: ended }
    }

    /// Gathers the parts and keeps the response that they make, whatever becomes of it.
    pub(super) async fn finish(self, mut parts: PartReceiver, mut encoder: ResponsesEncoder, _kept: Reserved) {
        let memory = self.state.backend.service.budget().open();
        while !encoder.is_done() {
            let part = parts.recv().await.ok_or_else(lost);
            let room = part.and_then(|part| match memory.grow(Use::Answer, part.bytes()) {
                Ok(()) => Ok(part),
                Err(_) => Err(Broken { code: MEMORY_FULL, message: "the memory for requests is taken".to_owned() }),
            });
            if let Err(Broken { code, message }) = room.and_then(|part| encoder.take(part)) {
                encoder.fail(ErrorObject::failed(code, &message), &mut Vec::new());
                break;
            }
        }
        if let Some(work) = encoder.last_work() {
            // It says itself what goes wrong.
            let _ = away(true, work).await;
        }
    }
}

impl Drop for BackgroundRun {
    fn drop(&mut self) {
        self.state.background.locked().remove(&self.id);
    }
}

impl BackgroundRuns {
    fn locked(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str) -> Option<watch::Receiver<()>> {
        self.locked().get(id).cloned()
    }

    /// Waits until all have ended and are kept.
    pub(in crate::http) async fn ended(&self) {
        loop {
            let Some(mut run) = self.locked().values().next().cloned() else { return };
            // The sender is dropped at the run's end, which is an error here.
            let _ = run.changed().await;
        }
    }
}

/// Looks a response up, away from the workers.
async fn find(state: &Data<AppState>, access: Access, id: &str) -> Result<KeptResponse, ApiError> {
    let (store, id) = (state.options.responses.clone(), id.to_owned());
    away(true, move || stored::find(&store, access, &id, clock::unix_seconds())).await?
}

#[derive(Debug, Deserialize)]
pub(in crate::http) struct GetQuery {
    stream: Option<String>,
}

/// GET: the response, as far as it is.
pub(in crate::http) async fn get(
    request: HttpRequest,
    id: Path<String>,
    query: Query<GetQuery>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    if query.stream.as_deref().is_some_and(|stream| stream != "false") {
        let message = "a response that is kept is told in one piece; leave it out".to_owned();
        return Err(WireError::Unsupported { param: "stream".to_owned(), message }.into());
    }
    let found = find(&state, access(&request), &id).await?;
    Ok(answer(told(&state, &id, &found)?))
}

pub(super) fn answer(json: String) -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(json)
}

/// The response's JSON. One that was being generated when the server stopped has failed.
fn told(state: &AppState, id: &str, found: &KeptResponse) -> Result<String, ApiError> {
    let record = found.read()?;
    if record.head()?.status != "in_progress" || state.background.get(id).is_some() {
        return Ok(record.response().to_owned());
    }
    let mut response: Value = serde_json::from_str(record.response()).map_err(|_| ApiError::StoreFailed)?;
    response["status"] = json!("failed");
    let message = "the server stopped, or could not keep it, before the response was done".to_owned();
    response["error"] = json!(ResponseFailure::new("server_shutdown", message));
    Ok(response.to_string())
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    id: &'a str,
    object: &'static str,
    deleted: bool,
}

/// DELETE: the response is forgotten, and called off if it is not done.
pub(in crate::http) async fn delete(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let access = access(&request);
    find(&state, access, &id).await?;
    call_off(&state, &id).await;
    let (store, gone) = (state.options.responses.clone(), id.clone());
    away(true, move || store.delete(&gone)).await??;
    Ok(HttpResponse::Ok().json(Deleted { id: &id, object: "response", deleted: true }))
}

/// POST …/cancel: a response of `background` is called off, and told as far as it came.
pub(in crate::http) async fn cancel(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let access = access(&request);
    if !find(&state, access, &id).await?.read()?.head()?.background {
        let message = "only a response with background: true is cancelled so; a client cancels another by leaving".to_owned();
        return Err(WireError::Conflict { param: "response_id".to_owned(), message }.into());
    }
    call_off(&state, &id).await;
    let found = find(&state, access, &id).await?;
    Ok(answer(told(&state, &id, &found)?))
}

/// Ends a run and waits until its response is kept; nothing if there is none.
async fn call_off(state: &AppState, id: &str) {
    let Some(mut run) = state.background.get(id) else { return };
    state.backend.service.cancel(id).await;
    // The sender is dropped at the run's end, which is an error here.
    let _ = tokio::time::timeout(CANCEL_MAX, run.changed()).await;
}

#[derive(Debug, Deserialize)]
pub(in crate::http) struct ItemsQuery {
    pub(in crate::http) limit: Option<String>,
    pub(in crate::http) order: Option<String>,
    pub(in crate::http) after: Option<String>,
}

#[derive(Debug, Serialize)]
pub(in crate::http) struct ItemList {
    object: &'static str,
    data: Vec<Value>,
    first_id: Option<Value>,
    last_id: Option<Value>,
    has_more: bool,
}

/// GET …/input_items: what the response was asked with, latest first unless asked otherwise.
pub(in crate::http) async fn input_items(
    request: HttpRequest,
    id: Path<String>,
    query: Query<ItemsQuery>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let mut items = find(&state, access(&request), &id).await?.read()?.input()?;
    let page = page(&mut items, &query)?;
    Ok(HttpResponse::Ok().json(page))
}

/// The page of `items`, oldest first, that is asked for.
pub(in crate::http) fn page(items: &mut Vec<Value>, query: &ItemsQuery) -> Result<ItemList, WireError> {
    let unfit = |param: &str, found: &str, expected: &str| WireError::Unfit {
        param: param.to_owned(),
        found: format!("the string {}", quoted(found)),
        expected: expected.to_owned(),
    };
    let limit = match &query.limit {
        None => PAGE_UNASKED,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_MAX).contains(limit))
            .ok_or_else(|| unfit("limit", text, &format!("a whole number from 1 to {PAGE_MAX}")))?,
    };
    match query.order.as_deref() {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(other) => return Err(unfit("order", other, "asc or desc")),
    }
    let begin = match &query.after {
        None => 0,
        Some(after) => {
            let place = items.iter().position(|item| item["id"] == after.as_str());
            1 + place.ok_or_else(|| unfit("after", after, "the id of an item of the list"))?
        }
    };
    let data: Vec<Value> = items.drain(..).skip(begin).collect();
    let has_more = data.len() > limit;
    let data: Vec<Value> = data.into_iter().take(limit).collect();
    let id_of = |item: Option<&Value>| item.map(|item| item["id"].clone());
    Ok(ItemList { object: "list", first_id: id_of(data.first()), last_id: id_of(data.last()), data, has_more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_told_in_pages() {
        let items = || (0..5).map(|index| json!({"id": format!("msg_{index}")})).collect::<Vec<_>>();
        let asked = |limit: Option<&str>, order: Option<&str>, after: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            page(&mut items(), &ItemsQuery { limit: own(limit), order: own(order), after: own(after) })
        };
        let ids = |list: &ItemList| list.data.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let first = asked(Some("2"), Some("asc"), None).unwrap();
        assert_eq!(
            (ids(&first), first.has_more, &first.last_id),
            (vec!["msg_0".into(), "msg_1".into()], true, &Some(json!("msg_1")))
        );
        let last = asked(Some("3"), Some("asc"), Some("msg_1")).unwrap();
        assert_eq!((ids(&last).len(), last.has_more), (3, false));
        assert_eq!(ids(&asked(None, None, None).unwrap())[0], "msg_4");
        for (limit, order, after) in
            [(Some("0"), None, None), (Some("x"), None, None), (None, Some("up"), None), (None, None, Some("y"))]
        {
            assert!(asked(limit, order, after).is_err(), "{limit:?} {order:?} {after:?}");
        }
    }
}
