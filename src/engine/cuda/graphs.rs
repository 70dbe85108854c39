//! Captured decode steps, by size.

use super::layout::StepSizes;
use super::rounds::RoundSizes;
use antiphon_kernels::cuda::{CudaError, Graph};
use std::collections::HashMap;

/// Graphs that are kept; a server whose sequences grow meets a new size at each power of two of its context.
const GRAPHS_MAX: usize = 128;

/// The graphs of an engine.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    graphs: HashMap<(StepSizes, RoundSizes), Graph>,
    replays: usize,
}

impl Graphs {
    pub(super) fn has(&self, step: &StepSizes, round: &RoundSizes) -> bool {
        self.graphs.contains_key(&(*step, *round))
    }

    /// Keeps a graph; the ones before it go if there are too many, and are captured again when they are needed.
    pub(super) fn keep(&mut self, step: StepSizes, round: RoundSizes, graph: Graph) {
        if self.graphs.len() >= GRAPHS_MAX {
            self.graphs.clear();
        }
        self.graphs.insert((step, round), graph);
    }

    /// Queues a graph that is there.
    pub(super) fn launch(&mut self, step: &StepSizes, round: &RoundSizes) -> Result<(), CudaError> {
        self.replays += 1;
        self.graphs[&(*step, *round)].launch()
    }

    /// Graphs that are there, and launches.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.graphs.len(), self.replays)
    }
}
