//! The routes of the predecessors: their requests, their events, their answers.

pub(in crate::http) mod event_answer;
pub(in crate::http) mod generate;
pub(in crate::http) mod text_answer;
pub(in crate::http) mod text_request;
