//! The only wiring: load the model, start the actors, bind HTTP, drain in order.

pub mod logging;
mod model;
mod options;

use std::net::SocketAddr;

pub use model::{Model, ModelError};
pub use options::{Device, Secret, ServeOptions, ShownValue, SseDialect};

use crate::metrics::LogWatch;

/// Why the server did not start, or stopped before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// This build cannot serve.
    #[error("this build cannot serve {model}; expected one with an engine")]
    NoEngine {
        /// The model.
        model: String,
    },
}

/// Serves until a signal asks to stop; `ready` is called once with the address that is bound, when requests are taken.
///
/// # Errors
/// [`AppError`] if the server cannot start; nothing is left half started.
pub fn serve(options: &ServeOptions, _log: &LogWatch, _ready: Box<dyn FnOnce(SocketAddr) + Send>) -> Result<(), AppError> {
    Err(AppError::NoEngine { model: options.model.clone() })
}
