//! How fast the engine computes, as observed, and how a refused client is told when to come back.

use crate::batch::Micros;

/// Older steps weigh half after this much computing time.
const HALF_LIFE_MICROS: f64 = 5_000_000.0;

/// Tokens a second over the last seconds of computing; time in which nothing was computed does not
/// count.
#[derive(Debug, Default)]
pub(super) struct TokenRate {
    tokens: f64,
    micros: f64,
}

impl TokenRate {
    /// Notes a step: how many tokens it computed, and how long that took.
    pub(super) fn observe(&mut self, tokens: usize, began: Micros, ended: Micros) {
        // A step of less than a microsecond is a fake engine's.
        let micros = ended.since(began).max(1) as f64;
        let decay = 0.5_f64.powf(micros / HALF_LIFE_MICROS);
        self.tokens = self.tokens * decay + tokens as f64;
        self.micros = self.micros * decay + micros;
    }

    /// Tokens a second; zero before the first step.
    pub(super) fn tokens_per_second(&self) -> f64 {
        if self.micros > 0.0 { self.tokens * 1e6 / self.micros } else { 0.0 }
    }
}

/// Whole seconds to come back after, from 1 to 60, for a request that would be taken after
/// `micros`.
pub(super) fn retry_after_seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000).clamp(1, 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_pace_is_observed_as_it_is() {
        let mut pace = TokenRate::default();
        assert_eq!(pace.tokens_per_second(), 0.0);
        for step in 0..100 {
            pace.observe(8, Micros(step * 100_000), Micros(step * 100_000 + 20_000));
        }
        assert!((pace.tokens_per_second() - 400.0).abs() < 1e-6);
    }

    #[test]
    fn a_new_pace_wins_after_a_while() {
        let mut pace = TokenRate::default();
        for _ in 0..100 {
            pace.observe(1_000, Micros(0), Micros(100_000));
        }
        for _ in 0..400 {
            pace.observe(10, Micros(0), Micros(100_000));
        }
        assert!(pace.tokens_per_second() < 200.0);
    }

    #[test]
    fn clients_come_back_after_whole_seconds_from_one_to_sixty() {
        let said = [0, 1, 1_000_000, 1_000_001, 35_500_000, u64::MAX].map(retry_after_seconds);
        assert_eq!(said, [1, 1, 1, 2, 36, 60]);
    }
}
