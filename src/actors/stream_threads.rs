//! The threads on which the StreamActors live.

use actix::{Arbiter, ArbiterHandle};

/// Threads that take streams in turn.
#[derive(Debug)]
pub(super) struct StreamThreads {
    arbiters: Vec<Arbiter>,
    next: usize,
}

impl StreamThreads {
    /// So many, and at least one.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(count: usize) -> std::io::Result<Self> {
        let arbiters: Result<Vec<Arbiter>, _> = (0..count.max(1)).map(|_| Arbiter::try_new()).collect();
        Ok(Self { arbiters: arbiters?, next: 0 })
    }

    /// The thread for the next stream; a dead one is replaced.
    pub(super) fn next_thread(&mut self) -> ArbiterHandle {
        self.next = (self.next + 1) % self.arbiters.len();
        living(&mut self.arbiters[self.next])
    }

    /// Lets all of them end.
    pub(super) fn stop(&self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

/// The thread of an arbiter, after replacing it if it is dead.
fn living(arbiter: &mut Arbiter) -> ArbiterHandle {
    if !arbiter.alive()
        && let Ok(fresh) = Arbiter::try_new()
    {
        tracing::error!("a thread of the streams is dead and was replaced");
        *arbiter = fresh;
    }
    arbiter.handle()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_dead_thread_of_the_streams_is_replaced() {
        actix_rt::System::new().block_on(async {
            let mut arbiter = Arbiter::new();
            assert!(living(&mut arbiter).alive());
            arbiter.stop();
            while arbiter.alive() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(living(&mut arbiter).alive());
            arbiter.stop();
        });
    }
}
