//! Which requests are let in: keys, hosts, methods, paths.

use antiphon::http::{ApiKey, KeyRing, Keys, ServeError};
use serde_json::json;

use super::client::{exchange, get, post, request};
use super::world::{Plan, World};

const PATHS: [&str; 19] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/generate",
    "/generate/stream",
    "/cancel/x",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/v1/models/tiny",
    "/models",
    "/version",
    "/stats",
    "/metrics",
    "/memory_stats",
    "/admin/debug/bundle",
    "/console/live",
    "/page/nothing",
    "/nothing",
    "/health/other",
];

/// A ring of these keys.
pub(super) fn ring(users: &[&str], admins: &[&str]) -> KeyRing {
    let keys = |texts: &[&str]| texts.iter().map(|text| ApiKey::new(text).expect("a key")).collect();
    KeyRing::new(Keys { users: keys(users), admins: keys(admins) })
}

#[actix_rt::test]
async fn without_the_key_only_probes_are_answered() {
    let mut plan = Plan::default();
    plan.http.keys = ring(&["Sesame"], &[]);
    let world = World::open(plan).await;
    let odd = [
        "/page",
        "/page/",
        "/page/../stats",
        "/page/app.js/../../stats",
        "//",
        "//v1/models",
        "/v1/%6dodels",
        "/health/%6cive",
        "/health/live/..",
        "/health/../metrics",
        "/Health",
    ];
    for path in PATHS.iter().chain(&odd) {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let reply = exchange(world.address, &request(method, path, "", "")).await;
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(reply.error()["type"], "authentication_error");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    for path in ["/health", "/health/live", "/health/ready", "/", "/page/settings.json", "/page/app.js"] {
        assert_eq!(get(world.address, path).await.status, 200, "{path}");
    }
    let refusal = async |header: &str| {
        exchange(world.address, &request("GET", "/v1/models", header, "")).await.error()["message"].as_str().map(str::to_owned)
    };
    assert_eq!(
        refusal("").await.as_deref(),
        Some("this server needs an API key: Authorization: Bearer KEY, or X-Api-Key: KEY")
    );
    let wrong = refusal("Authorization: Bearer Simsim\r\n").await.expect("a message");
    assert!(wrong.contains("is none of this server's") && !wrong.contains("Simsim"), "{wrong}");
    for (key, status) in [("Sesame", 200), ("sesame", 401), ("Sesame1", 401), ("", 401)] {
        let header = format!("Authorization: Bearer {key}\r\n");
        assert_eq!(exchange(world.address, &request("GET", "/v1/models", &header, "")).await.status, status, "{key:?}");
        let unknown = exchange(world.address, &request("GET", "/nothing", &header, "")).await.status;
        assert_eq!(unknown, if status == 200 { 404 } else { 401 });
    }
    for (first, second) in [("Sesame", "Sesame"), ("Sesame", "x"), ("x", "Sesame")] {
        let headers = format!("Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n");
        let reply = exchange(world.address, &request("GET", "/v1/models", &headers, "")).await;
        assert_eq!((reply.status, &reply.error()["code"]), (400, &json!("repeated_header")), "{first} {second}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn unknown_paths_and_wrong_methods_are_said_to_be_so() {
    let world = World::open(Plan::default()).await;
    for (method, path, status, allow) in [
        ("GET", "/nothing", 404, None),
        ("POST", "//v1/models", 404, None),
        ("GET", "/v1/chat/completions", 405, Some("POST")),
        ("DELETE", "/v1/models", 405, Some("GET, HEAD")),
        ("POST", "/health/live", 405, Some("GET, HEAD")),
        ("OPTIONS", "/generate", 405, Some("POST")),
    ] {
        let reply = exchange(world.address, &request(method, path, "Origin: http://evil.example\r\n", "")).await;
        assert_eq!((reply.status, reply.header("allow")), (status, allow), "{method} {path}");
        reply.error();
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let head = exchange(world.address, &request("HEAD", "/v1/models", "", "")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    world.close().await;
}

/// What a page of `origin` hears: the status, and which origin may read the answer.
async fn heard(world: &World, method: &str, path: &str, origin: &str, more: &str) -> (u16, Option<String>) {
    let headers = format!("Origin: {origin}\r\n{more}");
    let reply = exchange(world.address, &request(method, path, &headers, "")).await;
    let allowed = reply.header("access-control-allow-origin").map(str::to_owned);
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    if allowed.is_some() && method == "OPTIONS" && reply.status == 204 {
        assert_eq!(reply.header("access-control-allow-methods"), Some("GET, HEAD, POST, DELETE"));
        assert_eq!(reply.header("access-control-allow-headers"), Some("authorization, content-type"));
    }
    (reply.status, allowed)
}

#[actix_rt::test]
async fn pages_of_named_origins_may_read_the_answers() {
    const ASKING: &str =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, content-type\r\n";
    let mut plan = Plan::default();
    plan.http.keys = ring(&["Sesame"], &[]);
    plan.http.cors_origins = vec!["https://Page.example".parse().unwrap()];
    let world = World::open(plan).await;
    let (page, key) = ("https://page.example", "Authorization: Bearer Sesame\r\n");
    let named = || Some(page.to_owned());
    // The question before the request carries no key; the request does. An error can be read as well.
    assert_eq!(heard(&world, "OPTIONS", "/v1/chat/completions", page, ASKING).await, (204, named()));
    assert_eq!(heard(&world, "GET", "/v1/models", page, key).await, (200, named()));
    assert_eq!(heard(&world, "GET", "/v1/models", page, "").await, (401, named()));
    assert_eq!(heard(&world, "POST", "/v1/chat/completions", page, key).await, (400, named()));
    // No question, another page, the same name under another scheme.
    assert_eq!(heard(&world, "OPTIONS", "/v1/models", page, key).await, (405, named()));
    for other in ["https://evil.example", "http://page.example", "https://page.example:8443", "null"] {
        assert_eq!(heard(&world, "OPTIONS", "/v1/chat/completions", other, ASKING).await, (401, None), "{other}");
        assert_eq!(heard(&world, "GET", "/v1/models", other, key).await, (200, None), "{other}");
    }
    world.close().await;

    let mut plan = Plan::default();
    plan.http.cors_origins = vec!["*".parse().unwrap()];
    let world = World::open(plan).await;
    let body = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":4,"stream":true}"#;
    let reply = super::client::post_with(world.address, "/v1/chat/completions", "Origin: http://any.example\r\n", body).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("*")), "a stream too");
    assert_eq!(reply.header("access-control-expose-headers"), Some("x-request-id, request-id, retry-after"));
    world.close().await;
}

#[actix_rt::test]
async fn on_loopback_only_its_own_names_are_answered() {
    let mut plan = Plan::default();
    plan.http.allowed_hosts = vec!["Box.lan".to_owned()];
    let world = World::open(plan).await;
    for (host, status) in [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("box.LAN", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("a/b?c", 403),
    ] {
        let raw = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let reply = exchange(world.address, raw.as_bytes()).await;
        assert_eq!(reply.status, status, "{host}");
        if status == 403 {
            assert_eq!(reply.error()["code"], "host_forbidden");
            let message = reply.error()["message"].to_string();
            assert!(message.contains("--allowed-host NAME"), "{message}");
        }
    }
    // The host of an absolute target counts as the header does.
    for (target, host, status) in [
        ("http://localhost:1/version", "localhost", 200),
        ("http://box.lan/version", "localhost", 200),
        ("http://evil.example/version", "localhost", 403),
        ("http://localhost@evil.example/version", "localhost", 403),
        ("http://localhost/version", "evil.example", 403),
    ] {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(exchange(world.address, raw.as_bytes()).await.status, status, "{target} {host}");
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_busy_port_is_one_sentence() {
    let world = World::open(Plan::default()).await;
    let mut options = Plan::default().http;
    options.port = world.address.port();
    let error = antiphon::http::serve(world.backend.clone(), options, world.observed.clone(), |_| {}).unwrap_err();
    assert!(matches!(error, ServeError::PortBusy { .. }), "{error:?}");
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    let options = antiphon::http::HttpOptions { host: "203.0.113.1".to_owned(), ..Plan::default().http };
    let error = antiphon::http::serve(world.backend.clone(), options, world.observed.clone(), |_| {}).unwrap_err();
    assert!(matches!(error, ServeError::Address { .. }), "{error:?}");
    world.close().await;
}

#[actix_rt::test]
async fn cancel_by_id_ends_the_stream() {
    let step_time = std::time::Duration::from_millis(5);
    let world = World::open(Plan { endless: true, step_time, ..Plan::default() }).await;
    assert_eq!(post(world.address, "/cancel/nobody", "").await.json(), json!({"status": "not_found", "request_id": "nobody"}));
    let asked = actix_rt::spawn(async move {
        let body = r#"{"prompt":["a","b"],"max_tokens":1000,"stream":true}"#;
        post(world.address, "/v1/completions", body).await
    });
    world.until(|snapshot| snapshot.scheduler.decode_count == 2).await;
    let live = world.service.live_requests();
    let id = live.iter().map(|live| live.request_id.as_str()).min_by_key(|id| id.len()).unwrap();
    assert_eq!(post(world.address, &format!("/cancel/{id}"), "").await.json()["status"], "cancelled");
    let chunks = asked.await.unwrap().chunks();
    let ends = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "cancelled").count();
    assert_eq!(ends, 2, "both prompts of the request");
    world.assert_empty().await;
    world.close().await;
}
