//! When an engine is given up.
//!
//! An engine that dies is rebuilt, and it may die for two reasons: the device is broken, or a
//! request is poison to it. The core finds out which: it tries the sequences of a lost step alone,
//! and gives up a sequence that was lost twice alone. So a death by itself says little. What counts
//! as a **strike** is an engine that cannot be rebuilt (or cannot compute one token afterwards),
//! and a sequence that was given up. Three strikes within a minute, with no successful step between
//! them, mean that nothing works any more; one successful step of another sequence shows that
//! something does.

use crate::batch::Micros;

/// So many strikes without a successful step between them ...
const STRIKES_MAX_COUNT: usize = 3;
/// ... within this time, and the engine is given up.
const WINDOW_MICROS: u64 = 60_000_000;

/// The strikes since the last success.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    recent: Vec<Micros>,
}

impl Strikes {
    /// Notes strikes; true if the engine may be rebuilt once more.
    pub(super) fn add(&mut self, count: usize, now: Micros) -> bool {
        self.recent.retain(|strike| now.since(*strike) < WINDOW_MICROS);
        self.recent.extend(std::iter::repeat_n(now, count));
        self.recent.len() < STRIKES_MAX_COUNT
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
    fn the_third_strike_in_a_row_is_the_last() {
        let mut strikes = Strikes::default();
        assert!(strikes.add(1, Micros(0)));
        assert!(strikes.add(0, Micros(SECOND)));
        assert!(strikes.add(1, Micros(SECOND)));
        assert!(!strikes.add(1, Micros(2 * SECOND)));
    }

    #[test]
    fn a_successful_step_forgives() {
        let mut strikes = Strikes::default();
        for round in 0..10 {
            assert!(strikes.add(2, Micros(round)));
            strikes.succeeded();
        }
    }

    #[test]
    fn strikes_half_a_minute_apart_are_not_in_a_row() {
        let mut strikes = Strikes::default();
        for strike in 0..10 {
            assert!(strikes.add(1, Micros(strike * 31 * SECOND)));
        }
    }
}
