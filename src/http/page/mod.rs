//! The page at `/`: a chat and a console, served from the binary.
//!
//! Promises: every file is one of a list, with its type, an ETag and headers that let it run no
//! code but its own and reach no server but this one. No key is needed for the files, which hold
//! nothing secret: the page asks for the key that everything behind it needs.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, IF_NONE_MATCH};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::http::errors::ApiError;
use crate::http::state::AppState;

/// Scripts, styles, fonts and requests of this server alone; no inline code, no frames, and no HTML
/// made from text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const FONT: &str = "font/woff2";
const SETTINGS_PATH: &str = "/page/settings.json";
/// What the page at `/docs` shows; it tells no more than the settings do.
const DOCUMENT_PATH: &str = "/openapi.json";

/// A file of the page.
struct PageFile {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal $kind:ident $file:literal;)*) => {
        [$(PageFile { path: $path, kind: $kind, bytes: include_bytes!(concat!("", $file)) }),*]
    };
}

/// Everything that the page is made of.
static FILES: [PageFile; 17] = files! {
    "/" HTML "index.html";
    "/docs" HTML "docs.html";
    "/page/docs.js" SCRIPT "docs.js";
    "/page/app.js" SCRIPT "app.js";
    "/page/server.js" SCRIPT "server.js";
    "/page/chat.js" SCRIPT "chat.js";
    "/page/dom.js" SCRIPT "dom.js";
    "/page/markdown.js" SCRIPT "markdown.js";
    "/page/code.js" SCRIPT "code.js";
    "/page/marked.js" SCRIPT "marked.js";
    "/page/console.js" SCRIPT "console.js";
    "/page/plots.js" SCRIPT "plots.js";
    "/page/style.css" STYLE "style.css";
    "/page/icon.svg" SVG "icon.svg";
    "/page/newsreader.woff2" FONT "newsreader.woff2";
    "/page/instrument-sans.woff2" FONT "instrument-sans.woff2";
    "/page/plex-mono.woff2" FONT "plex-mono.woff2";
};

/// The ETag of each file, by its path.
static TAGS: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
    let tag = |file: &PageFile| {
        let hash = Sha256::digest(file.bytes);
        hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    FILES.iter().map(|file| (file.path, format!("\"{}\"", tag(file)))).collect()
});

/// Whether a path is part of the page, and so needs no key.
pub(in crate::http) fn is_open(path: &str) -> bool {
    path == SETTINGS_PATH || path == DOCUMENT_PATH || find(path).is_some()
}

fn find(path: &str) -> Option<&'static PageFile> {
    FILES.iter().find(|file| file.path == path)
}

/// `GET /`.
pub(in crate::http) async fn root(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    answer(&request, "/")
}

/// `GET /docs`.
pub(in crate::http) async fn docs(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    answer(&request, "/docs")
}

/// `GET /page/{file}`.
pub(in crate::http) async fn file(request: HttpRequest, name: Path<String>) -> Result<HttpResponse, ApiError> {
    answer(&request, &format!("/page/{name}"))
}

fn answer(request: &HttpRequest, path: &str) -> Result<HttpResponse, ApiError> {
    let unknown = || ApiError::UnknownPath { path: crate::http::wire::error::clip(path) };
    let file = find(path).ok_or_else(unknown)?;
    let tag = TAGS.get(file.path).expect("every file has a tag");
    let known = is_known(request.headers(), tag);
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        // Asked for again each time, and answered by its tag: a new server is never shown with an
        // old page.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((ETAG, tag.as_str()))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("X-Frame-Options", "DENY"))
        .insert_header(("Referrer-Policy", "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"));
    if known {
        return Ok(response.finish());
    }
    Ok(response.content_type(file.kind).body(Bytes::from_static(file.bytes)))
}

/// Whether the browser has the file already.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag)
}

/// What the page must know before it has a key; `/health` tells no less.
#[derive(Debug, Serialize)]
struct PageSettings<'a> {
    version: &'static str,
    model: &'a str,
    model_size: &'a str,
    names: &'a [String],
    profiles: Vec<&'a str>,
    context_tokens_max: Option<usize>,
    temperature: f64,
    key_needed: bool,
}

/// `GET /page/settings.json`.
pub(in crate::http) async fn settings(state: Data<AppState>) -> HttpResponse {
    let options = &state.options;
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(PageSettings {
        version: crate::VERSION,
        model: &options.model.model_id,
        model_size: &options.model.model_size,
        names: &state.names,
        profiles: options.profiles.keys().map(String::as_str).collect(),
        context_tokens_max: state.backend.service.limits().map(|limits| limits.context_tokens_max),
        temperature: options.sampling.temperature,
        key_needed: !options.keys.now().users.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_names_only_itself() {
        let bytes: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes < 270_000, "the page has {bytes} bytes");
        let texts = FILES.iter().filter(|file| file.kind != FONT);
        for (path, text) in texts.map(|file| (file.path, std::str::from_utf8(file.bytes).expect("text is UTF-8"))) {
            // The library names its home in a comment, and what a bare address begins with; it asks
            // for nothing.
            let library = path == "/page/marked.js";
            let away = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                library || !away.contains("http://") && !away.contains("https://") && !away.contains("\"//"),
                "{path} points elsewhere"
            );
            // What would let a text become code. The policy forbids it too; this finds it before a
            // browser does.
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", " style=\""]
            {
                assert!(!text.contains(sink), "{path} has {sink}");
            }
        }
    }

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let texts = FILES.iter().filter(|file| file.kind != FONT).map(|file| String::from_utf8_lossy(file.bytes));
        let all: String = texts.collect();
        let names: Vec<&str> = all
            .match_indices("/page/")
            .map(|(at, _)| {
                let end = all[at..].find(['"', '\'', ')', '`']).expect("a name ends");
                &all[at..at + end]
            })
            .collect();
        assert!(names.len() >= 10, "{names:?}");
        for name in names {
            assert!(is_open(name), "{name} is not served");
        }
        assert!(!is_open("/page/") && !is_open("/page/../stats") && !is_open("/console/live"));
    }
}
