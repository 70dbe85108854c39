//! What the load client itself costs: events a second that it reads, times and counts, beside a
//! responder that only writes.
//!
//! Client and responder share the machine; each event is a write of its own. The client runs as
//! `antiphon load` does: one `drive` with all its figures, on as many threads as there are cores. A
//! bare reader that takes bytes and looks at none of them shows what the responder and the sockets
//! leave for it.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use antiphon::client::{Api, Client, ClientOptions};
use antiphon::load::{Arrivals, GoodputTargets, LoadOptions, LoadRun, PromptSource, Prompts, drive};
use criterion::{BenchmarkId, Criterion, Throughput};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

#[path = "load/responder.rs"]
mod responder;

use responder::Manner;

fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// So many users at once; each asks so often.
fn load(runtime: &Runtime, address: SocketAddr, users_count: usize, times: usize) -> LoadRun {
    let options = LoadOptions {
        api: Api::Chat,
        model: "parrot".to_owned(),
        arrivals: Arrivals::Closed { concurrency: users_count },
        requests_max: Some(users_count * times),
        duration: None,
        output_tokens: 1,
        output_tokens_min: 1,
        ignore_eos: false,
        temperature: 0.0,
        extra_body: Default::default(),
        turns: 1,
        disconnect_rate: 0.0,
        abort_rate: 0.0,
        answer_max: Duration::from_secs(600),
        warmup: 0,
        targets: GoodputTargets::default(),
        seed: 0,
        progress: false,
        failures_max: 1,
    };
    let run = runtime.block_on(async {
        let client = Client::new(&format!("http://{address}"), &ClientOptions::default()).expect("a client");
        let prompts = Prompts::open(&PromptSource::BuiltIn, 0, 0, &client, "parrot").await.expect("prompts");
        Box::pin(drive(&client, &options, &prompts)).await.0
    });
    assert_eq!(run.counts.completed, users_count * times, "{:?} {:?}", run.partial, run.errors);
    run
}

/// The same streams, read without a look at them.
fn read_bare(runtime: &Runtime, address: SocketAddr, users_count: usize) -> Duration {
    let begun = Instant::now();
    runtime.block_on(async {
        let mut readers = JoinSet::new();
        for _ in 0..users_count {
            readers.spawn(async move {
                let mut socket = TcpStream::connect(address).await.expect("the responder listens");
                let request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
                socket.write_all(request).await.expect("the responder reads");
                let mut bytes = vec![0; 8192];
                loop {
                    let count = socket.read(&mut bytes).await.expect("the responder answers");
                    // The end of an answer is never cut: it is short, and the last that is written.
                    if bytes[..count].ends_with(b"0\r\n\r\n") {
                        break;
                    }
                }
            });
        }
        while let Some(read) = readers.join_next().await {
            read.expect("a reader does not panic");
        }
    });
    begun.elapsed()
}

/// What this process has computed, without one of its threads.
fn computed(without: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux lists threads").flatten();
    let others = threads.filter(|thread| thread.file_name() != without);
    let spent = others.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    Duration::from_nanos(spent.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum())
}

/// As fast as both can.
fn flat_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1));
    for (users_count, tokens_count) in [(16, 2000), (1000, 100)] {
        let runtime = runtime();
        let (address, thread) = responder::start(Manner { tokens_count, gap: Duration::ZERO });
        let events = (users_count * tokens_count) as f64;
        group.bench_function(BenchmarkId::new("event", users_count), |bencher| {
            bencher.iter_custom(|wanted| {
                let (mut read, mut spent_s) = (0.0, 0.0);
                while read < wanted as f64 {
                    spent_s += load(&runtime, address, users_count, 1).wall_s;
                    read += events;
                }
                Duration::from_secs_f64(spent_s * wanted as f64 / read)
            });
        });
        let before = computed(&thread);
        let run = load(&runtime, address, users_count, 3);
        let cost = (computed(&thread) - before).as_secs_f64() * 1e6 / events / 3.0;
        let bare = events / read_bare(&runtime, address, users_count).as_secs_f64();
        let rate = events * 3.0 / run.wall_s;
        eprintln!("{users_count} streams: {rate:.0} events/s at {cost:.2} us of the client's; a bare reader has {bare:.0}");
    }
    group.finish();
}

/// A given rate, spread over many streams: whether the client keeps up, and what it adds to the
/// gaps.
fn paced() {
    let (users_count, tokens_count, gap) = (1000, 250, Duration::from_millis(20));
    let runtime = runtime();
    let (address, thread) = responder::start(Manner { tokens_count, gap });
    let before = computed(&thread);
    let run = load(&runtime, address, users_count, 1);
    let busy = (computed(&thread) - before).as_secs_f64() / run.wall_s;
    let itl = run.latencies.itl.expect("gaps");
    let rate = (users_count * tokens_count) as f64 / run.wall_s;
    eprintln!(
        "{users_count} streams with a gap of {gap:?}: {rate:.0} events/s on {busy:.2} cores of the client's; gaps p50 {:.2} p99 {:.2} ms",
        itl.p50, itl.p99
    );
}

/// Ten thousand streams at once. The responder is a process of its own, as one may not have
/// descriptors enough for both ends.
fn many() {
    let (users_count, gap) = (10_000, Duration::from_millis(500));
    rlimit::increase_nofile_limit(65_536).expect("the limit can be read");
    let (mut child, address) = other_process();
    let memory = |name: &str| {
        let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number")
    };
    let before = memory("VmRSS:");
    let run = load(&runtime(), address, users_count, 1);
    let itl = run.latencies.itl.expect("gaps");
    let under_way = run.samples.iter().map(|sample| sample.in_flight).max().unwrap_or(0);
    let kib = (memory("VmHWM:") - before) / users_count as f64;
    let rate = run.output_tokens_per_s;
    eprintln!(
        "{under_way} streams under way, gap {gap:?}: {rate:.0} events/s, gaps p50 {:.2} p99 {:.2} ms, {kib:.1} KiB a stream",
        itl.p50, itl.p99
    );
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

fn other_process() -> (Child, SocketAddr) {
    use std::io::BufRead as _;
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let mut child = command.arg("responder").stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its address");
    (child, line.trim().parse().expect("an address"))
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("responder") {
        rlimit::increase_nofile_limit(65_536).expect("the limit can be read");
        let manner = Manner { tokens_count: 40, gap: Duration::from_millis(500) };
        responder::serve(manner, |address| {
            use std::io::Write as _;
            writeln!(std::io::stdout(), "{address}").expect("somebody reads");
        });
    }
    // First, while nothing else has taken memory.
    many();
    paced();
    flat_out(&mut Criterion::default().configure_from_args());
}
