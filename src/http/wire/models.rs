//! `/v1/models`, `/cancel/{id}` and `/version`: the small answers.

use serde::Serialize;

/// The models that are served, under all their names.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelEntry<'a>>,
}

/// One name of the model.
#[derive(Debug, Serialize)]
pub(crate) struct ModelEntry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    parent: Option<()>,
    max_model_len: Option<usize>,
    /// The cost model, where answers are made up; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    simulated: Option<&'a str>,
}

/// What is said of the model under any name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelFacts<'a> {
    /// All its names, its id first.
    pub(crate) names: &'a [String],
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
    /// Most tokens of a sequence, once that is known.
    pub(crate) context_tokens_max: Option<usize>,
    /// The cost model, if its steps are simulated.
    pub(crate) simulated: Option<&'a str>,
}

impl<'a> ModelList<'a> {
    /// The model under all its names.
    pub(crate) fn new(facts: &ModelFacts<'a>) -> Self {
        let data = facts.names.iter().filter_map(|name| ModelEntry::new(name, facts, &[])).collect();
        Self { object: "list", data }
    }
}

impl<'a> ModelEntry<'a> {
    /// The model under `name`; `None` if it is neither one of its names nor of `unlisted`.
    pub(crate) fn new(name: &str, facts: &ModelFacts<'a>, unlisted: &'a [String]) -> Option<Self> {
        let id = facts.names.iter().chain(unlisted).find(|known| *known == name)?;
        Some(Self {
            id,
            object: "model",
            created: facts.created,
            owned_by: "antiphon",
            root: &facts.names[0],
            parent: None,
            max_model_len: facts.context_tokens_max,
            simulated: facts.simulated,
        })
    }
}

/// What a cancel met.
#[derive(Debug, Serialize)]
pub(crate) struct CancelAnswer<'a> {
    /// `cancelled` or `not_found`.
    pub(crate) status: &'static str,
    /// The id as it was given, cut if it is longer than any.
    pub(crate) request_id: &'a str,
}

/// Which build this is.
#[derive(Debug, Serialize)]
pub(crate) struct VersionAnswer {
    /// The package's version.
    pub(crate) version: &'static str,
}
