//! How often an engine may die before it is given up.

use crate::batch::Micros;

/// So many deaths without a successful step between them ...
const DEATHS_MAX_COUNT: usize = 3;
/// ... within this time, and the engine is dead for good.
const DEATHS_WINDOW_MICROS: u64 = 60_000_000;

/// The engine's deaths since its last success.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    recent: Vec<Micros>,
}

impl Deaths {
    /// Notes a death; true if the engine may be rebuilt once more.
    pub(super) fn died(&mut self, now: Micros) -> bool {
        self.recent.retain(|death| now.since(*death) < DEATHS_WINDOW_MICROS);
        self.recent.push(now);
        self.recent.len() < DEATHS_MAX_COUNT
    }

    /// Notes a successful step: what came before is forgiven.
    pub(super) fn succeeded(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn the_third_death_in_a_row_is_the_last() {
        let mut deaths = Deaths::default();
        assert!(deaths.died(Micros(0)));
        assert!(deaths.died(Micros(SECOND)));
        assert!(!deaths.died(Micros(2 * SECOND)));
    }

    #[test]
    fn a_successful_step_forgives() {
        let mut deaths = Deaths::default();
        for round in 0..10 {
            assert!(deaths.died(Micros(round)));
            assert!(deaths.died(Micros(round)));
            deaths.succeeded();
        }
    }

    #[test]
    fn deaths_a_minute_apart_are_not_in_a_row() {
        let mut deaths = Deaths::default();
        for death in 0..10 {
            assert!(deaths.died(Micros(death * 31 * SECOND)));
        }
    }
}
