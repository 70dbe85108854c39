//! Decode steps that were captured when the engine was made, one for each size.

use antiphon_kernels::cuda::{CudaError, Graph};

/// The graphs of an engine.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    /// Most sequences of each, ascending.
    graphs: Vec<(usize, Graph)>,
    replays: usize,
}

/// The sizes that are captured for steps of up to `most` sequences: each up to 8, then steps of 8
/// up to 64, of 32 above; padding costs attention's and the dense layers' share of a token, no
/// expert.
pub(super) fn sizes(most: usize) -> impl Iterator<Item = usize> {
    let fits = move |size: &usize| *size < most;
    (1..=8).chain((16..=64).step_by(8)).chain((96..).step_by(32)).take_while(fits).chain((most > 0).then_some(most))
}

impl Graphs {
    /// Keeps the graph of the next size.
    pub(super) fn keep(&mut self, size: usize, graph: Graph) {
        assert!(self.graphs.last().is_none_or(|(last, _)| *last < size), "sizes ascend");
        self.graphs.push((size, graph));
    }

    /// The smallest size that holds `tokens` sequences.
    pub(super) fn size_of(&self, tokens: usize) -> Option<usize> {
        self.graphs.iter().map(|(size, _)| *size).find(|size| *size >= tokens)
    }

    /// Queues the graph of this size.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn launch(&mut self, size: usize) -> Result<(), CudaError> {
        self.replays += 1;
        let at = self.graphs.binary_search_by_key(&size, |(size, _)| *size).expect("the size of a graph");
        self.graphs[at].1.launch()
    }

    /// Drops every graph.
    pub(super) fn clear(&mut self) {
        self.graphs.clear();
    }

    /// Graphs that are there, and launches.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.graphs.len(), self.replays)
    }
}
