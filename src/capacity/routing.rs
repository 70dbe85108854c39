//! Which replica gets a request.

use std::collections::HashMap;

/// How a replica is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// One after another.
    RoundRobin,
    /// The one with the fewest requests under way; of equals the first.
    LeastLoaded,
    /// The one that had the conversation's last request, unless it has too many: then the least
    /// loaded.
    CacheAware,
}

/// A replica has too many requests if it has so many more than the one with the fewest, and so many
/// times as many. Source: the defaults of SGLang's router (`balance_abs_threshold`,
/// `balance_rel_threshold`).
const MORE_MAX: u32 = 64;
const TIMES_MAX: f64 = 1.5;

impl Routing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastLoaded, Self::CacheAware];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastLoaded => "least-loaded",
            Self::CacheAware => "cache-aware",
        }
    }
}

/// The gateway's memory.
#[derive(Debug)]
pub(super) struct Router {
    routing: Routing,
    next: usize,
    /// Requests under way, by replica.
    loads: Vec<u32>,
    /// Where a conversation was last.
    homes: HashMap<u64, u32>,
}

impl Router {
    pub(super) fn new(routing: Routing, replicas: usize) -> Self {
        Self { routing, next: 0, loads: vec![0; replicas], homes: HashMap::new() }
    }

    /// The replica for a request of `conversation`, which is under way there from now on.
    pub(super) fn choose(&mut self, conversation: u64) -> usize {
        let chosen = match self.routing {
            Routing::RoundRobin => {
                self.next = (self.next + 1) % self.loads.len();
                (self.next + self.loads.len() - 1) % self.loads.len()
            }
            Routing::LeastLoaded => self.least_loaded(),
            Routing::CacheAware => {
                let least = self.least_loaded();
                let home = self.homes.get(&conversation).map(|home| *home as usize);
                let chosen = home.filter(|home| !self.has_too_many(*home, least)).unwrap_or(least);
                self.homes.insert(conversation, u32::try_from(chosen).expect("replicas are few"));
                chosen
            }
        };
        self.loads[chosen] += 1;
        chosen
    }

    /// A request has ended at this replica.
    pub(super) fn ended(&mut self, replica: usize) {
        self.loads[replica] -= 1;
    }

    fn least_loaded(&self) -> usize {
        let loads = self.loads.iter().enumerate();
        loads.min_by_key(|(_, load)| **load).map(|(replica, _)| replica).expect("there is a replica")
    }

    fn has_too_many(&self, replica: usize, least: usize) -> bool {
        let (own, fewest) = (self.loads[replica], self.loads[least]);
        own - fewest > MORE_MAX && f64::from(own) > TIMES_MAX * f64::from(fewest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_robin_goes_round_whatever_is_under_way() {
        let mut router = Router::new(Routing::RoundRobin, 3);
        let chosen: Vec<usize> = (0..7).map(|conversation| router.choose(conversation)).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_least_loaded_has_never_more_than_the_others_when_it_is_chosen() {
        let mut router = Router::new(Routing::LeastLoaded, 4);
        for request in 0..400_u64 {
            let before = router.loads.clone();
            let chosen = router.choose(request);
            assert_eq!(before[chosen], *before.iter().min().expect("four"), "{before:?}");
            if request % 3 == 0 {
                let busiest = (0..4).max_by_key(|replica| router.loads[*replica]).expect("four");
                router.ended(busiest);
            }
        }
        assert!(router.loads.iter().max().expect("four") - router.loads.iter().min().expect("four") <= 1);
    }

    #[test]
    fn a_conversation_stays_until_its_replica_has_too_many() {
        let mut router = Router::new(Routing::CacheAware, 2);
        let home = router.choose(7);
        let other = router.choose(8);
        assert_ne!(home, other, "a new conversation goes to the least loaded");
        // 65 more than the other are too many, and 64 are not.
        for _ in 0..64 {
            assert_eq!(router.choose(7), home);
        }
        assert_eq!((router.loads[home], router.loads[other]), (65, 1));
        assert_eq!(router.choose(7), home);
        assert_eq!(router.choose(7), other, "66 and 1");
        assert_eq!(router.choose(7), other, "it has moved");
    }
}
