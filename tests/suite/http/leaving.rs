//! Clients that leave, in every phase, and what they leave behind: nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{post, request};
use super::world::{Plan, World};
use crate::ways::{WAYS, Way, reset_when_dropped};

/// A generation that is on its way; dropped, the client has left.
async fn ask(address: SocketAddr, stream: bool) -> TcpStream {
    let body = format!(r#"{{"prompt":"go on","max_tokens":2000,"temperature":0,"stream":{stream}}}"#);
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    let request = request("POST", "/v1/completions", "Content-Type: application/json\r\n", &body);
    socket.write_all(&request).await.expect("the server reads");
    socket
}

/// Leaves; a half-closed socket is kept by the caller.
async fn leave(mut socket: TcpStream, way: Way) -> Option<TcpStream> {
    match way {
        Way::Fin => None,
        Way::Reset => {
            reset_when_dropped(&socket);
            None
        }
        Way::Half => {
            socket.shutdown().await.expect("it was open");
            Some(socket)
        }
    }
}

async fn slow(running_max_count: usize) -> World {
    World::open(Plan { endless: true, step_time: Duration::from_millis(5), running_max_count, ..Plan::default() }).await
}

#[actix_rt::test]
async fn a_client_that_leaves_a_stream_frees_its_blocks() {
    let world = slow(8).await;
    for way in WAYS {
        let mut socket = ask(world.address, true).await;
        socket.read_exact(&mut [0; 400]).await.unwrap();
        world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
        let left = leave(socket, way).await;
        world.assert_empty().await;
        drop(left);
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_while_it_waits_for_one_piece_frees_its_blocks() {
    let world = slow(8).await;
    for way in WAYS {
        let socket = ask(world.address, false).await;
        world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
        let left = leave(socket, way).await;
        world.assert_empty().await;
        drop(left);
    }
    world.close().await;
}

/// RFC 9112, 9.3.2: requests may stand behind the one that is answered. What stands there hides no
/// departure, however large.
#[actix_rt::test]
async fn a_client_that_leaves_is_seen_behind_what_it_sent() {
    let world = slow(8).await;
    let behind = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200_000);
    for (way, stream) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        for (bytes, what) in
            [(100, &behind), (20_000, &behind), (128 << 10, &behind), (behind.len(), &behind), (1 << 17, &"x".repeat(1 << 17))]
        {
            let mut socket = ask(world.address, stream).await;
            world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
            // As much as the kernels take: the rest of 8.6 MB is on its way when the client leaves.
            let _ = timeout(Duration::from_millis(50), socket.write_all(&what.as_bytes()[..bytes])).await;
            let left = leave(socket, way).await;
            world.assert_empty().await;
            drop(left);
        }
    }
    world.close().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_the_queue_touches_nobody_else() {
    let world = slow(1).await;
    let mut witness = ask(world.address, true).await;
    world.until(|snapshot| snapshot.scheduler.decode_count == 1).await;
    for (way, stream) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let socket = ask(world.address, stream).await;
        world.until(|snapshot| snapshot.scheduler.waiting_count == 1).await;
        let left = leave(socket, way).await;
        world.until(|snapshot| snapshot.scheduler.waiting_count == 0 && snapshot.requests_active == 1).await;
        drop(left);
    }
    // The witness still gets text.
    witness.read_exact(&mut [0; 2000]).await.unwrap();
    assert_eq!(world.service.snapshot().requests_active, 1);
    drop(witness);
    world.assert_empty().await;
    world.close().await;
}

#[actix_rt::test]
async fn a_thousand_clients_that_leave_at_any_moment_leave_nothing() {
    let plan = Plan { endless: true, step_time: Duration::from_micros(500), running_max_count: 64, ..Plan::default() };
    let world = World::open(Plan { waiting_max_count: 2000, ..plan }).await;
    let address = world.address;
    let clients = (0..1000_u64).map(|index| {
        actix_rt::spawn(async move {
            // A fixed spread of moments and ways: what varies between runs is the server's own timing.
            tokio::time::sleep(Duration::from_millis(index * 7919 % 1500)).await;
            let mut socket = ask(address, index % 3 != 0).await;
            let moment = index * 104_729 % 60;
            if moment > 40 {
                let _ = socket.read(&mut [0; 100]).await;
            } else {
                tokio::time::sleep(Duration::from_millis(moment)).await;
            }
            drop(leave(socket, WAYS[index as usize % 3]).await);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    world.assert_empty().await;
    let reply = post(address, "/v1/completions", r#"{"prompt":"x","max_tokens":3}"#).await;
    assert_eq!(reply.status, 200, "the server still serves");
    world.close().await;
}

#[actix_rt::test]
async fn a_client_that_stops_reading_is_given_up() {
    let mut plan = Plan { endless: true, step_time: Duration::from_micros(200), ..Plan::default() };
    plan.http.send_deadline = Duration::from_millis(500);
    let world = World::open(plan).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // The answer is larger than what the kernel keeps for a client that does not read: 4 MB, and little
    // on this side.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    let body = r#"{"prompt":"go on","n":4,"max_tokens":2000,"logprobs":20,"stream":true}"#;
    socket.write_all(&request("POST", "/v1/completions", "", body)).await.unwrap();
    world.until(|snapshot| snapshot.scheduler.decode_count == 4).await;
    // The actors would wait an hour: it is the connection that is given up.
    world.assert_empty().await;
    let stats = world.backend.metrics.stats(world.backend.clock.now());
    assert_eq!((stats.requests.cancelled, stats.stream_cancelled), (1, 1));
    drop(socket);
    world.close().await;
}
