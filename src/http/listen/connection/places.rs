//! How many connections are open, in all and from one address; what is beyond is turned away.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::http::listen::connection::own;
use crate::metrics::Metrics;

/// One of so many places is for addresses that have few. Two addresses can take the default's whole
/// bound, and a probe that finds no place has the server restarted.
const SPARED_ONE_OF: usize = 16;
/// Fewer are few: probes of two kinds may come at once, and one that just ended may still be
/// counted.
const FEW_COUNT: usize = 4;
/// Connections that are told why they are turned away, at the same time; more are closed without a
/// word.
const TOLD_MAX_COUNT: usize = 64;
/// How long a client may take to hear it.
const TELLING: Duration = Duration::from_secs(1);
/// The log says at most so often that connections are turned away.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Of an IPv6 address, what a network gives to one site.
const SITE: Ipv6Addr = Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0);

/// Which bound is reached; its name is a label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Full {
    All,
    Address,
}

/// The open connections.
#[derive(Debug)]
pub(in crate::http) struct ConnectionPlaces {
    all_max_count: usize,
    address_max_count: usize,
    open: Mutex<OpenCounts>,
    telling: Arc<Semaphore>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct OpenCounts {
    all_count: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Turned away since the log was told.
    untold_count: u64,
    logged: Option<Instant>,
}

/// An open connection's place, free again when it is dropped.
#[derive(Debug)]
pub(in crate::http) struct ConnectionPlace {
    places: Arc<ConnectionPlaces>,
    address: IpAddr,
}

impl ConnectionPlaces {
    /// No connection yet.
    pub(in crate::http) fn new(all_max_count: usize, address_max_count: usize, metrics: Metrics) -> Self {
        // Where few may be open there are few descriptors, and one that is told holds one.
        let telling = Arc::new(Semaphore::new(TOLD_MAX_COUNT.min(all_max_count)));
        Self { all_max_count, address_max_count, open: Mutex::default(), telling, metrics }
    }

    /// A place for a connection from `address`; `None` if it is turned away, which is counted and
    /// logged.
    pub(in crate::http) fn take(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPlace> {
        let address = site(address);
        let mut open = self.lock();
        let mine_count = open.by_address.get(&address).copied().unwrap_or(0);
        let spared_count = if mine_count < FEW_COUNT { 0 } else { self.all_max_count / SPARED_ONE_OF };
        let full = if open.all_count >= self.all_max_count - spared_count {
            Full::All
        } else if mine_count >= self.address_max_count {
            Full::Address
        } else {
            open.all_count += 1;
            open.by_address.insert(address, mine_count + 1);
            return Some(ConnectionPlace { places: Arc::clone(self), address });
        };
        self.turned_away(&mut open, full, address);
        None
    }

    /// The right to tell a client that there is no place; `None` where enough are told.
    pub(in crate::http) fn telling(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.telling).try_acquire_owned().ok()
    }

    fn turned_away(&self, open: &mut OpenCounts, full: Full, address: IpAddr) {
        let (reason, option) = match full {
            Full::All => ("all", "--connections-max-count"),
            Full::Address => ("address", "--address-connections-max-count"),
        };
        self.metrics.connection_refused(reason);
        open.untold_count += 1;
        if open.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            open.logged = Some(Instant::now());
            let count = std::mem::take(&mut open.untold_count);
            tracing::warn!(count, %address, open = open.all_count, "too many connections: turned away; the bound is {option}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenCounts> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        open.all_count -= 1;
        let left = open.by_address.get_mut(&self.address).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            open.by_address.remove(&self.address);
        }
    }
}

/// Addresses that count as one: an IPv6 client has as many as it likes.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(address & SITE),
        address => address,
    }
}

/// Tells a client that there is no place for it.
pub(in crate::http) async fn turn_away(_telling: OwnedSemaphorePermit, mut stream: TcpStream) {
    let tell = async {
        stream.write_all(&own::full()).await?;
        stream.shutdown().await?;
        // What is left unread when a socket is closed may cost the client its answer.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    // A client that is gone, or does not close, has heard what it could.
    let _ = timeout(TELLING, tell).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ModelTags;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn places(all_max_count: usize, address_max_count: usize) -> Arc<ConnectionPlaces> {
        let [model_id, model_size, dtype, gpu_mode, prompt_version] = Default::default();
        let tags = ModelTags { model_id, model_size, dtype, gpu_mode, prompt_version };
        Arc::new(ConnectionPlaces::new(all_max_count, address_max_count, Metrics::new(tags)))
    }

    #[test]
    fn a_place_is_free_again_when_it_is_left() {
        let places = places(3, 2);
        let [one, other, third] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(address);
        let first = places.take(one).expect("nothing is open");
        let second = places.take(one).expect("two are allowed");
        assert!(places.take(one).is_none(), "the address has two");
        let third_place = places.take(other).expect("three are allowed");
        assert!(places.take(third).is_none(), "three are open");
        drop(first);
        let again = places.take(one).expect("one was left");
        drop((again, second, third_place));
        let open = places.lock();
        assert_eq!((open.all_count, open.by_address.len()), (0, 0), "nothing is kept of those that left");
    }

    #[test]
    fn few_addresses_leave_a_place_for_others() {
        let places = places(96, 60);
        let mut taken = Vec::new();
        for one in ["10.0.0.1", "10.0.0.2"].map(address) {
            taken.extend(std::iter::from_fn(|| places.take(one)));
        }
        assert_eq!(taken.len(), 90, "six of 96 are for addresses that have few");
        let [few, other, late] = ["10.0.0.3", "10.0.0.4", "10.0.0.5"].map(address);
        taken.extend(std::iter::from_fn(|| places.take(few)));
        assert_eq!(taken.len(), 94, "four are few");
        taken.extend(std::iter::from_fn(|| places.take(other)));
        assert_eq!(taken.len(), 96, "the bound holds for all");
        assert!(places.take(late).is_none(), "also for an address that has none");
    }

    #[test]
    fn addresses_of_one_site_count_as_one() {
        for (one, other, same) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            assert_eq!(site(address(one)) == site(address(other)), same, "{one} and {other}");
        }
    }
    /// A socket that is closed with something unread resets the connection, which takes the answer
    /// from a client that has not read it yet.
    #[actix_web::test]
    async fn a_client_that_is_turned_away_hears_it_whatever_it_has_sent() {
        let listener = actix_web::rt::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        client.write_all(&[b'x'; 20_000]).await.expect("the kernel takes it");
        let (stream, _) = listener.accept().await.expect("it connected");
        let telling = places(1, 1).telling().expect("none is told yet");
        let mut heard = Vec::new();
        let hear = async {
            client.read_to_end(&mut heard).await.expect("the end is no reset");
            drop(client);
        };
        futures_util::join!(turn_away(telling, stream), hear);
        assert!(heard.starts_with(b"HTTP/1.1 503 ") && heard.ends_with(b"\"too_many_connections\"}}"), "{heard:?}");
    }
}
