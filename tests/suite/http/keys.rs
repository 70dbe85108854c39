//! One key and another: what the owner of one can learn of the other's requests, and do to them;
//! what admins can.

use std::time::Duration;

use antiphon::http::{Keys, MetricsAccess};
use serde_json::{Value, json};

use super::access::ring;
use super::client::{Reply, exchange, post_with, request};
use super::world::{Plan, World};

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

async fn ask(world: &World, method: &str, path: &str, key: &str) -> Reply {
    exchange(world.address, &request(method, path, &bearer(key), "")).await
}

/// What `/cancel` says of a request to the owner of a key.
async fn cancelled(world: &World, key: &str, id: &str) -> String {
    let reply = ask(world, "POST", &format!("/cancel/{id}"), key).await.json();
    reply["status"].as_str().expect("a status").to_owned()
}

/// The console as the owner of a key sees it.
async fn console(world: &World, key: &str) -> Value {
    // Longer than an answer is good for.
    tokio::time::sleep(Duration::from_millis(250)).await;
    ask(world, "GET", "/console/live", key).await.json()
}

#[actix_rt::test]
async fn another_keys_requests_are_neither_seen_nor_ended() {
    let mut plan = Plan { endless: true, step_time: Duration::from_millis(5), ..Plan::default() };
    plan.http.keys = ring(&["one", "two"], &["root"]);
    let world = World::open(plan).await;
    let address = world.address;
    let asked = async |path: &'static str, body: &'static str| {
        let count = world.service.live_requests().len();
        let answer = actix_rt::spawn(async move { post_with(address, path, &bearer("one"), body).await });
        world.until(|snapshot| snapshot.requests_active > count && snapshot.scheduler.decode_count > count).await;
        let id = world.service.live_requests().pop().expect("it is live").request_id;
        (answer, id)
    };
    let routes = [
        ("/v1/chat/completions", r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":1500,"stream":true}"#),
        ("/v1/completions", r#"{"prompt":"a","max_tokens":1500,"stream":true}"#),
        ("/generate", r#"{"prompt":"a","max_tokens":1500,"stream":false}"#),
        ("/generate/stream", r#"{"prompt":"a","max_tokens":1500}"#),
    ];
    for (ender, others) in [("one", ["two", "two"]), ("root", ["two", "two"])] {
        for (path, body) in routes {
            let (answer, id) = asked(path, body).await;
            for other in others {
                assert_eq!(cancelled(&world, other, &id).await, "not_found", "{path}");
            }
            let others = console(&world, "two").await;
            assert!(!others.to_string().contains(&id), "{path}: {others}");
            assert_eq!((&others["live"], &others["counts"]["requests"]), (&json!([]), &json!(1)));
            assert!(others["batch"][0]["request_id"].as_str().expect("a name").starts_with("other "), "{others}");
            for key in ["one", "root"] {
                let own = console(&world, key).await;
                assert_eq!((&own["live"][0]["request_id"], &own["batch"][0]["request_id"]), (&json!(id), &json!(id)));
            }
            assert_eq!(cancelled(&world, ender, &id).await, "cancelled", "{path}");
            answer.await.expect("it is answered");
            assert!(!console(&world, "two").await.to_string().contains(&id), "{path}: what ended is not told either");
        }
    }
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_hit_is_of_the_same_key_and_salt() {
    let mut plan = Plan::default();
    plan.http.keys = ring(&["one", "two"], &[]);
    let world = World::open(plan).await;
    let hit = async |path: &str, key: &str, salt: Option<&str>| {
        let body = json!({
            "messages": [{"role": "user", "content": format!("my secret on {path}")}],
            "max_tokens": 4, "stream": false, "cache_salt": salt,
        });
        let reply = post_with(world.address, path, &bearer(key), &body.to_string()).await;
        reply.json()["metadata"]["cache_hit"].as_bool().unwrap_or_else(|| panic!("{}", reply.body))
    };
    for path in ["/generate"] {
        assert!(!hit(path, "one", None).await && hit(path, "one", None).await);
        assert!(!hit(path, "two", None).await, "another key's prompt");
        assert!(!hit(path, "one", Some("a")).await, "another salt's prompt");
        assert!(hit(path, "one", Some("a")).await && !hit(path, "one", Some("b")).await && !hit(path, "two", Some("a")).await);
        assert!(hit(path, "one", None).await && hit(path, "two", None).await, "each kept its own");
    }
    world.close().await;
}

#[actix_rt::test]
async fn admins_have_routes_of_their_own_and_metrics_a_switch() {
    let metrics = ["/metrics", "/stats", "/memory_stats"];
    for (access, none, user, admin) in
        [(MetricsAccess::Key, 401, 200, 200), (MetricsAccess::Admin, 401, 403, 200), (MetricsAccess::Open, 200, 200, 200)]
    {
        let mut plan = Plan::default();
        plan.http.keys = ring(&["user"], &["root"]);
        plan.http.metrics_access = access;
        let world = World::open(plan).await;
        for path in metrics {
            let plain = exchange(world.address, &request("GET", path, "", "")).await.status;
            let given = [ask(&world, "GET", path, "user").await.status, ask(&world, "GET", path, "root").await.status];
            assert_eq!((plain, given), (none, [user, admin]), "{path} {access:?}");
        }
        let bundle = "/admin/debug/bundle";
        let refused = ask(&world, "GET", bundle, "user").await;
        assert_eq!((refused.status, &refused.error()["code"]), (403, &json!("admin_key_needed")));
        assert_eq!(exchange(world.address, &request("GET", bundle, "", "")).await.status, 401);
        for path in [bundle, "/v1/models"] {
            assert_eq!(ask(&world, "GET", path, "root").await.status, 200, "an admin's key opens {path}");
        }
        // However the path is spelt.
        for odd in ["/%61dmin/debug/bundle", "/admin/debug/%62undle", "//admin/debug/bundle"] {
            assert_ne!(ask(&world, "GET", odd, "user").await.status, 200, "{odd}");
        }
        world.close().await;
    }
    let mut plan = Plan::default();
    plan.http.keys = ring(&["user"], &[]);
    let world = World::open(plan).await;
    let refused = ask(&world, "GET", "/admin/debug/bundle", "user").await;
    assert_eq!(refused.status, 403, "with keys and no admin there is no admin");
    assert!(refused.error()["message"].as_str().expect("a message").contains("--admin-key-file"));
    world.close().await;
}

#[actix_rt::test]
async fn a_key_comes_in_either_header_and_can_be_exchanged() {
    let mut plan = Plan::default();
    let keys = ring(&["first"], &[]);
    plan.http.keys = keys.clone();
    let world = World::open(plan).await;
    let body = r#"{"messages":[{"role":"user","content":"x"}],"prompt":"x","max_tokens":4}"#;
    let status = async |headers: &str| {
        let mut seen = Vec::new();
        for path in ["/v1/chat/completions", "/v1/completions", "/generate/stream", "/tokenize"] {
            seen.push(post_with(world.address, path, headers, body).await.status);
        }
        seen.push(exchange(world.address, &request("GET", "/stats", headers, "")).await.status);
        seen.iter().all(|status| *status == 401).then_some(401).or_else(|| (!seen.contains(&401)).then_some(200))
    };
    for (headers, wanted) in [
        ("X-Api-Key: first\r\n", 200),
        ("x-api-key: first\r\nAuthorization: Basic eDp5\r\n", 200),
        ("X-Api-Key: First\r\n", 401),
        ("X-Api-Key: first\r\nX-Api-Key: first\r\n", 401),
        ("X-Api-Key: Bearer first\r\n", 401),
        ("X-Api-Key: \r\n", 401),
    ] {
        assert_eq!(status(headers).await, Some(wanted), "{headers}");
    }
    keys.exchange(Keys { users: ring(&["second"], &[]).now().users.clone(), admins: Vec::new() });
    assert_eq!((status("X-Api-Key: first\r\n").await, status(&bearer("second")).await), (Some(401), Some(200)));
    world.close().await;
}
