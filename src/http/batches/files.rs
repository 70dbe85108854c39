//! `/v1/files`: the files that batches read and write, as OpenAI has them.
//!
//! A file is one record of the response store: a line of JSON that tells what it is, and its bytes.
//! So it is bounded by age and size with everything that is kept there.

use std::convert::Infallible;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use multer::Multipart;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actors::budget::{Reserved, Use};
use crate::actors::messages::KeyId;
use crate::clock;
use crate::http::answer::sealing::owner_bytes;
use crate::http::body::{away, read_bytes};
use crate::http::errors::ApiError;
use crate::http::middleware::key::Access;
use crate::http::middleware::unread_body::until_sent;
use crate::http::responses::kept::{ItemsQuery, page};
use crate::http::state::{AppState, access};
use crate::http::wire::error::{WireError, clip, quoted};
use crate::store::{ResponseStore, StoreError};

/// How ids of files begin; others are not looked for.
const PREFIX: &str = "file-";
/// What a client may upload a file for.
const INPUT: &str = "batch";
/// What a batch writes its files for.
pub(super) const OUTPUT: &str = "batch_output";

/// What a file is; the first line of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileObject {
    pub(super) id: String,
    object: String,
    bytes: usize,
    created_at: u64,
    expires_at: Option<u64>,
    filename: String,
    purpose: String,
    /// Every file of this server is.
    status: String,
}

/// A file that a request may see.
pub(super) struct StoredFile {
    pub(super) object: FileObject,
    pub(super) content: Vec<u8>,
}

/// What the first line of a record says, and where its bytes begin.
fn head(record: &[u8]) -> Option<(FileObject, usize)> {
    let end = record.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&record[..end]).ok()?, end + 1))
}

/// Keeps a file.
///
/// # Errors
/// Those of the store.
pub(super) fn keep(
    store: &ResponseStore,
    owner: KeyId,
    filename: &str,
    purpose: &str,
    content: &[u8],
) -> Result<FileObject, StoreError> {
    let now = clock::unix_seconds();
    let object = FileObject {
        id: format!("{PREFIX}{}", Uuid::new_v4().simple()),
        object: "file".to_owned(),
        bytes: content.len(),
        created_at: now,
        expires_at: None,
        filename: clip(filename),
        purpose: purpose.to_owned(),
        status: "processed".to_owned(),
    };
    let mut record = serde_json::to_vec(&object).expect("texts and numbers are JSON");
    record.push(b'\n');
    record.extend_from_slice(content);
    store.put(&object.id, &owner_bytes(owner), &record, now)?;
    Ok(object)
}

/// The file `id`, if `access` may see it; `memory` pays for it. `param` names it, if not the path.
pub(super) fn find(
    store: &ResponseStore,
    access: Access,
    id: &str,
    param: Option<&'static str>,
    memory: &Reserved,
) -> Result<StoredFile, ApiError> {
    let unknown = || ApiError::UnknownKept { what: "File", id: clip(id), param };
    let found = if id.starts_with(PREFIX) { store.get(id, clock::unix_seconds())? } else { None };
    let record = found.filter(|record| access.sees(owner_of(&record.owner))).ok_or_else(unknown)?;
    memory.grow(Use::Answer, record.bytes.len() as u64)?;
    let (object, begin) = head(&record.bytes).ok_or(ApiError::StoreFailed)?;
    let mut content = record.bytes;
    content.drain(..begin);
    Ok(StoredFile { object, content })
}

/// An owner as the store has it.
pub(super) fn owner_of(bytes: &[u8]) -> KeyId {
    KeyId(<[u8; 16]>::try_from(bytes).ok())
}

/// The store, of a server that keeps something.
pub(super) fn check_store(state: &AppState) -> Result<ResponseStore, ApiError> {
    if state.options.responses.is_on() {
        return Ok(state.options.responses.clone());
    }
    let message = "this server keeps no files and runs no batches (--response-store off); antiphon batch FILE runs one offline";
    Err(WireError::Unsupported { param: String::new(), message: message.to_owned() }.into())
}

/// POST: a file is kept.
pub(in crate::http) async fn upload(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let store = check_store(&state)?;
    let boundary = boundary(&request)?;
    let (bytes, memory) = read_bytes(&request, payload, &state).await?;
    let Upload { filename, purpose, content } = read_form(bytes, boundary).await?;
    if purpose != INPUT {
        let (found, expected) = (format!("the string {}", quoted(&purpose)), format!("the string {INPUT:?}"));
        return Err(WireError::Unfit { param: "purpose".to_owned(), found, expected }.into());
    }
    let owner = access(&request).key;
    let kept = move || {
        let _memory = memory;
        keep(&store, owner, &filename, &purpose, &content).map_err(|error| match error {
            StoreError::TooLarge { bytes_max, .. } => {
                let max_bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX);
                ApiError::BodyTooLarge { max_bytes }
            }
            error => error.into(),
        })
    };
    Ok(HttpResponse::Ok().json(away(true, kept).await??))
}

fn boundary(request: &HttpRequest) -> Result<String, ApiError> {
    let given =
        request.headers().get(CONTENT_TYPE).map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into());
    let expected = "multipart/form-data with the parts file and purpose";
    multer::parse_boundary(&given).map_err(|_| ApiError::MediaType { expected, found: quoted(&given) })
}

/// What a form brings.
#[derive(Debug, Default, PartialEq)]
struct Upload {
    filename: String,
    purpose: String,
    content: Vec<u8>,
}

async fn read_form(bytes: Vec<u8>, boundary: String) -> Result<Upload, WireError> {
    let broken = |error: multer::Error| WireError::Unfit {
        param: String::new(),
        found: format!("a form that cannot be read ({error})"),
        expected: "multipart/form-data".to_owned(),
    };
    let whole = stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
    let mut form = Multipart::new(whole, boundary);
    let (mut file, mut purpose) = (None, None);
    while let Some(part) = form.next_field().await.map_err(broken)? {
        let (name, filename) = (part.name().unwrap_or_default().to_owned(), part.file_name().map(str::to_owned));
        let content = part.bytes().await.map_err(broken)?;
        let is_new = match name.as_str() {
            "file" => file.replace((filename.unwrap_or_else(|| "input.jsonl".to_owned()), content.to_vec())).is_none(),
            "purpose" => purpose.replace(String::from_utf8_lossy(&content).into_owned()).is_none(),
            // `expires_after[anchor]` and its like: files are kept as long as everything else.
            _ => true,
        };
        if !is_new {
            return Err(WireError::Twice { param: name });
        }
    }
    let missing = |param: &str, expected| WireError::Missing { param: param.to_owned(), expected };
    let (filename, content) = file.ok_or_else(|| missing("file", "a file of JSON lines"))?;
    let purpose = purpose.ok_or_else(|| missing("purpose", "\"batch\""))?;
    Ok(Upload { filename, purpose, content })
}

/// Which files are listed.
#[derive(Debug, Deserialize)]
pub(in crate::http) struct FilesQuery {
    purpose: Option<String>,
    limit: Option<String>,
    order: Option<String>,
    after: Option<String>,
}

/// GET: the files of the client, latest first unless asked otherwise.
pub(in crate::http) async fn list(
    request: HttpRequest,
    query: Query<FilesQuery>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (store, access) = (check_store(&state)?, access(&request));
    let FilesQuery { purpose, limit, order, after } = query.into_inner();
    let listed = move || {
        let wanted = |file: &FileObject| purpose.as_ref().is_none_or(|purpose| *purpose == file.purpose);
        let read = |record: &[u8]| head(record).map(|(file, _)| file).filter(wanted).map(|file| json!(file));
        let mut files = listed(&store, access, PREFIX, read)?;
        Ok::<_, ApiError>(page(&mut files, &ItemsQuery { limit, order, after })?)
    };
    Ok(HttpResponse::Ok().json(away(true, listed).await??))
}

/// The records that `access` may see and `read` makes something of, oldest first.
pub(super) fn listed(
    store: &ResponseStore,
    access: Access,
    prefix: &str,
    read: impl Fn(&[u8]) -> Option<Value>,
) -> Result<Vec<Value>, StoreError> {
    let mut found = Vec::new();
    store.visit(prefix, clock::unix_seconds(), |_, owner, bytes| {
        if access.sees(owner_of(owner)) {
            found.extend(read(bytes));
        }
    })?;
    found.sort_by_key(|object| (object["created_at"].as_u64(), object["id"].to_string()));
    Ok(found)
}

/// The file of the path, read away from the workers, with the memory that it takes.
async fn asked(request: &HttpRequest, id: &str, state: &Data<AppState>) -> Result<(StoredFile, Reserved), ApiError> {
    let (store, access, id) = (check_store(state)?, access(request), id.to_owned());
    let memory = state.backend.service.budget().open();
    away(true, move || Ok((find(&store, access, &id, None, &memory)?, memory))).await?
}

/// GET …/{id}: what the file is.
pub(in crate::http) async fn get(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(asked(&request, &id, &state).await?.0.object))
}

/// GET …/{id}/content: its bytes.
pub(in crate::http) async fn content(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (file, memory) = asked(&request, &id, &state).await?;
    let response = HttpResponse::Ok().content_type("application/octet-stream").body(file.content);
    Ok(response.map_body(|_, body| until_sent(body, memory)))
}

/// DELETE …/{id}: it is forgotten. A batch that reads it has read it.
pub(in crate::http) async fn delete(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (file, _) = asked(&request, &id, &state).await?;
    let (store, gone) = (check_store(&state)?, file.object.id.clone());
    away(true, move || store.delete(&gone)).await??;
    Ok(HttpResponse::Ok().json(json!({"id": file.object.id, "object": "file", "deleted": true})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(parts: &[(&str, &str)]) -> Vec<u8> {
        let mut text = String::new();
        for (name, content) in parts {
            let head = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"in.jsonl\"");
            text.push_str(&format!("--b\r\n{head}\r\n\r\n{content}\r\n"));
        }
        (text + "--b--\r\n").into_bytes()
    }

    #[actix_web::test]
    async fn a_form_is_read_whole_or_refused() {
        let read = |parts: &[(&str, &str)]| read_form(form(parts), "b".to_owned());
        let whole = read(&[("purpose", "batch"), ("file", "a\r\nb"), ("expires_after[anchor]", "x")]).await.unwrap();
        assert_eq!(
            (whole.filename.as_str(), whole.purpose.as_str(), whole.content.as_slice()),
            ("in.jsonl", "batch", &b"a\r\nb"[..])
        );
        let param = |result: Result<Upload, WireError>| (result.as_ref().unwrap_err().code(), result.unwrap_err().param());
        let told = |code, param: &str| (code, Some(param.to_owned()));
        assert_eq!(param(read(&[("file", "")]).await), told("missing_required_parameter", "purpose"));
        assert_eq!(param(read(&[("purpose", "batch")]).await), told("missing_required_parameter", "file"));
        assert_eq!(param(read(&[("file", "a"), ("file", "b")]).await), told("duplicate_field", "file"));
        for bytes in [&b""[..], b"--b\r\n", b"no form", &form(&[("file", "a")])[..60]] {
            assert_eq!(param(read_form(bytes.to_vec(), "b".to_owned()).await), ("invalid_value", None), "{bytes:?}");
        }
    }
}
