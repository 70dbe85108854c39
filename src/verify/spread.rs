//! Percentiles of a few measured values.

/// Values, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct SortedValues(Vec<f64>);

impl SortedValues {
    /// Of these values; those that are no number are left out.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The smallest value that at least this share of all do not exceed; zero if there are none.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1).min(self.0.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }

    /// The largest.
    pub(super) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::SortedValues;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let spread = SortedValues::of((1..=20).rev().map(f64::from));
        assert_eq!(
            (spread.quantile(0.5), spread.quantile(0.95), spread.quantile(0.99), spread.max()),
            (10.0, 19.0, 20.0, 20.0)
        );
        assert_eq!((SortedValues::default().quantile(0.5), SortedValues::of([f64::NAN]).count()), (0.0, 0));
    }
}
