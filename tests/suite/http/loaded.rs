//! The load client against the real server: what its users leave behind, which routes there are,
//! how long prompts become, and the server's own figures beside the client's.

use std::time::Duration;

use antiphon::client::{Api, Client, ClientOptions, Request};
use antiphon::load::{Arrivals, LoadOptions, LoadReport, LoadRun, PromptSource, Prompts, drive, html};
use serde_json::json;

use super::world::{Plan, World};
use crate::load::options;

async fn load(world: &World, options: &LoadOptions) -> LoadRun {
    let client = client(world);
    let prompts = Prompts::open(&PromptSource::BuiltIn, 0, 1, &client, &options.model).await.expect("prompts");
    Box::pin(drive(&client, options, &prompts)).await.0
}

fn client(world: &World) -> Client {
    Client::new(&format!("http://{}", world.address), &ClientOptions::default()).expect("a client")
}

fn asked(users_count: usize, requests: usize, output_tokens: u32) -> LoadOptions {
    let arrivals = Arrivals::Closed { concurrency: users_count };
    LoadOptions { model: "tiny".to_owned(), output_tokens, ..options(arrivals, requests) }
}

async fn slow() -> World {
    let step_time = Duration::from_millis(4);
    World::open(Plan { endless: true, step_time, running_max_count: 6, ..Plan::default() }).await
}

#[actix_rt::test]
async fn users_who_leave_and_cancel_leave_nothing_behind() {
    let world = slow().await;
    // Three times as many as run at once: they leave while they wait, too.
    let asked = LoadOptions { disconnect_rate: 0.4, abort_rate: 0.3, ..asked(18, 120, 40) };
    let run = load(&world, &asked).await;
    let counts = run.counts;
    assert_eq!((counts.sent, counts.failed, counts.refused), (120, 0, 0), "{:?}", run.errors);
    assert!(counts.left > 10 && counts.cancelled > 10 && counts.completed > 10, "{counts:?}");
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn every_route_that_the_server_has_is_driven() {
    let world = World::open(Plan::default()).await;
    for api in Api::ALL {
        let run = load(&world, &LoadOptions { api, ..asked(1, 2, 20) }).await;
        assert_eq!((run.counts.completed, run.errors.keys().next()), (2, None), "{api:?}");
        assert!(run.output_tokens > 0, "{api:?}");
    }
    world.assert_empty().await;
    world.close().await;
}

/// The tokenizer of the embedded model makes two or three tokens of most words: lengths come out
/// right only if it was asked.
#[actix_rt::test]
async fn random_prompts_are_as_long_as_the_server_counts() {
    let world = World::open(Plan::default()).await;
    let client = client(&world);
    let source = PromptSource::Random { from: 200, to: 200 };
    let prompts = Prompts::open(&source, 300, 7, &client, "tiny").await.expect("prompts");
    assert!(prompts.notes.is_empty(), "{:?}", prompts.notes);
    let count = async |text: &str| {
        let asked = Request::post_json("/tokenize", &json!({"model": "tiny", "prompt": text}));
        client.json(&asked).await.expect("it counts")["count"].as_f64().expect("a number")
    };
    let prefix = count(prompts.prefix().expect("one was asked for")).await;
    assert!((prefix - 300.0).abs() < 30.0, "{prefix}");
    let mut sum = 0.0;
    for index in 0..40 {
        let tokens = count(&prompts.text(index, 0)).await;
        assert!((tokens - 200.0).abs() < 30.0, "{tokens}");
        sum += tokens / 40.0;
    }
    assert!((sum - 200.0).abs() < 6.0, "{sum}");
    world.close().await;
}

#[actix_rt::test]
async fn the_servers_own_figures_stand_in_the_report() {
    let world = slow().await;
    let page = client(&world).call(&Request::get("/metrics")).await.expect("metrics").text();
    for name in ["antiphon_sequences_running", "antiphon_sequences_waiting", "antiphon_kv_usage_ratio"] {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name}");
    }
    // Ten times 60 steps of 4 ms: samples are taken in its middle.
    let run = load(&world, &asked(18, 60, 60)).await;
    let most =
        |figure: fn(&antiphon::load::RunSample) -> Option<f64>| run.samples.iter().filter_map(figure).fold(0.0, f64::max);
    let (running, waiting, kv) = (most(|sample| sample.running), most(|sample| sample.waiting), most(|sample| sample.kv));
    // One that has just ended makes room for a moment, and before the second step all but one wait.
    let expected = (1.0..=6.0).contains(&running) && (1.0..=17.0).contains(&waiting) && kv > 0.0 && kv < 1.0;
    assert!(expected, "{:?}", run.samples);
    let report = LoadReport {
        version: String::new(),
        created_s: 0,
        api: String::new(),
        model: "tiny".to_owned(),
        seed: 1,
        load: String::new(),
        notes: Vec::new(),
        runs: vec![run],
        sweep: None,
    };
    let page = html(&report, None);
    for legend in ["server&#39;s batch", "server&#39;s queue", "KV memory in use"] {
        assert!(page.contains(legend) || page.contains(&legend.replace("&#39;", "'")), "{legend}");
    }
    world.close().await;
}
