//! Which connections are used again.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;

/// Answers every request of every connection with an empty object.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut head = [0; 4096];
                while stream.read(&mut head).is_ok_and(|read| read > 0) {
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n";
                    stream.write_all(format!("{head}{{}}").as_bytes()).unwrap();
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_not_used_again() {
    let client = Client::new(&server(), &ClientOptions::default()).unwrap();
    let reused = async || client.call(&Request::get("/v1/models")).await.unwrap().timing.reused;
    assert_eq!((reused().await, reused().await), (false, true));
    let idle_for = |since: Duration| {
        let mut idle = client.shared.idle.lock().unwrap();
        assert_eq!(idle.len(), 1);
        idle[0].used_at -= since;
    };
    idle_for(IDLE_MAX / 2);
    assert!(reused().await);
    idle_for(IDLE_MAX);
    assert!(!reused().await, "a server may have closed it");
    assert!(reused().await, "the new one is kept");
}
