//! Events per second of the whole path from the scheduler to a client's socket: StreamActor,
//! encoder, SSE, actix, loopback.
//!
//! The fake engine answers at once, so that what is measured is everything but the model. One HTTP
//! worker, one thread of streams, one event per token; clients, on a thread of their own, read and
//! count.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};

#[path = "../tests/suite/http/world.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod world;

use world::{Plan, World};

/// A server on a thread of its own, which lives as long as the process.
fn open(streams_count: usize) -> SocketAddr {
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let plan = Plan {
                endless: true,
                running_max_count: streams_count.max(64),
                waiting_max_count: streams_count.max(64),
                // Room for every stream at once: preemption is not what is measured.
                blocks_count: streams_count.max(64) * 80,
                ..Plan::default()
            };
            let world = World::open(plan).await;
            sender.send(world.address).expect("the bench waits for it");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("the server starts")
}

/// Asks for one stream, reads it to its end, and returns how many events it had.
async fn read_stream(address: SocketAddr, tokens_count: u32) -> usize {
    let body = format!(r#"{{"prompt":"go on","max_tokens":{tokens_count},"temperature":0,"stream":true}}"#);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("the server answers");
    answer.windows(7).filter(|window| window == b"data: {").count()
}

/// Reads `streams_count` streams at once: how many events they had, and the time from the first
/// connection to the last event.
fn read_all(runtime: &Runtime, address: SocketAddr, streams_count: usize, tokens_count: u32) -> (usize, Duration) {
    let begun = Instant::now();
    let events = LocalSet::new().block_on(runtime, async {
        let streams: Vec<_> = (0..streams_count).map(|_| spawn_local(read_stream(address, tokens_count))).collect();
        let mut events = 0;
        for stream in streams {
            events += stream.await.expect("a client does not panic");
        }
        events
    });
    (events, begun.elapsed())
}

fn events(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("stream");
    group.sample_size(10);
    for (streams_count, tokens_count) in [(1, 1000), (64, 200), (1000, 50)] {
        let address = open(streams_count);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("event", streams_count), |bencher| {
            bencher.iter_custom(|wanted| {
                let (mut events, mut elapsed) = (0, Duration::ZERO);
                while events < wanted {
                    let (more, time) = read_all(&runtime, address, streams_count, tokens_count);
                    events += more as u64;
                    elapsed += time;
                }
                // A round has many events, and fewer than tokens: what waits for a reader is joined. So time goes
                // by events.
                elapsed.mul_f64(wanted as f64 / events as f64)
            });
        });
        let (events, time) = read_all(&runtime, address, streams_count, tokens_count);
        let tokens = streams_count * tokens_count as usize;
        eprintln!(
            "{streams_count} streams: {:.2} events a token, {:.0} tokens/s",
            events as f64 / tokens as f64,
            tokens as f64 / time.as_secs_f64()
        );
    }
    group.finish();
}

criterion_group!(benches, events);
criterion_main!(benches);
