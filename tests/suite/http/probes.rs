//! Probes, while every worker is busy and while none is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{exchange, get, request};
use super::world::{Plan, STALL, STALLED_COUNT, World};

const PROBES: [&str; 3] = ["/health", "/health/live", "/health/ready"];

/// Right: a probe asks whether the server is well, not whether a worker is free.
#[actix_rt::test]
async fn probes_are_answered_while_every_worker_is_busy() {
    let mut plan = Plan::default();
    plan.http.workers_count = 2;
    let world = World::open(plan).await;
    STALL.store(true, Ordering::SeqCst);
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        socket.write_all(&request("GET", "/stall", "", "")).await.unwrap();
        stalled.push(socket);
    }
    while STALLED_COUNT.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut kept = TcpStream::connect(world.address).await.unwrap();
    for path in PROBES {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: kube-probe/1.31\r\n");
        let reply = exchange(world.address, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        assert_eq!((reply.status, reply.json()["status"].is_string()), (200, true), "{path}: {reply:?}");
        kept.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut begin = [0; 15];
        kept.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK", "{path} on a connection that is kept");
        // The same answer without the one header.
        let length: usize = reply.head.len() + reply.body.len() - "connection: close\r\n".len() - begin.len();
        kept.read_exact(&mut vec![0; length]).await.unwrap();
    }
    STALL.store(false, Ordering::SeqCst);
    for mut socket in stalled {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    // The connection that had probes is a connection like any other.
    kept.write_all(&request("GET", "/version", "", "")).await.unwrap();
    let mut rest = String::new();
    kept.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.contains("\"version\""), "{rest}");
    world.close().await;
}

/// A probe with something about it that the border must look at goes to a worker; its answer is the
/// same.
#[actix_rt::test]
async fn both_ways_of_a_probe_answer_alike() {
    let world = World::open(Plan::default()).await;
    let names = |head: &str| {
        let mut names: Vec<String> =
            head.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names
    };
    for draining in [false, true] {
        if draining {
            world.service.begin_drain();
        }
        for path in PROBES {
            let plain = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let plain = exchange(world.address, plain.as_bytes()).await;
            // It has a Content-Length.
            let other = get(world.address, path).await;
            assert_eq!(plain.status, if draining && path != "/health/live" { 503 } else { 200 }, "{path}");
            assert_eq!((plain.status, names(&plain.head)), (other.status, names(&other.head)), "{path}");
            let mut bodies = [plain.json(), other.json()];
            for body in &mut bodies {
                // Of two moments.
                body.as_object_mut().unwrap().remove("heartbeat_age_ms");
            }
            assert_eq!(bodies[0], bodies[1], "{path}");
        }
    }
    world.close().await;
}

/// The last bytes of a head may come late, and a connection may be silent at first: neither is
/// lost.
#[actix_rt::test]
async fn a_head_in_pieces_is_served() {
    let world = World::open(Plan::default()).await;
    for path in ["/health/live", "/version"] {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        for (piece, pause) in [(&head[..0], 150), (&head[..9], 20), (&head[9..], 0)] {
            socket.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        assert_eq!(super::client::read(&mut socket).await.status, 200, "{path}");
    }
    world.close().await;
}

/// A connection that had probes and is idle since is closed as any other that is idle: without an
/// answer to nothing.
#[actix_rt::test]
async fn an_idle_connection_of_probes_is_closed_without_a_word() {
    let mut plan = Plan::default();
    (plan.http.idle_deadline, plan.http.head_deadline) = (Duration::from_millis(300), Duration::from_millis(300));
    let world = World::open(plan).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    world.close().await;
}
