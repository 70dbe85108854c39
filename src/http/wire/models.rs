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
}

impl<'a> ModelList<'a> {
    /// All `names`, the model's id first. `created` is when the server started.
    pub(crate) fn new(names: &'a [String], created: u64, context_tokens_max: Option<usize>) -> Self {
        let data = names.iter().filter_map(|name| ModelEntry::new(name, names, &[], created, context_tokens_max)).collect();
        Self { object: "list", data }
    }
}

impl<'a> ModelEntry<'a> {
    /// The model under `name`; `None` if it is neither one of `names` nor of `unlisted`.
    pub(crate) fn new(
        name: &str,
        names: &'a [String],
        unlisted: &'a [String],
        created: u64,
        context_tokens_max: Option<usize>,
    ) -> Option<Self> {
        let id = names.iter().chain(unlisted).find(|known| *known == name)?;
        Some(Self {
            id,
            object: "model",
            created,
            owned_by: "antiphon",
            root: &names[0],
            parent: None,
            max_model_len: context_tokens_max,
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
