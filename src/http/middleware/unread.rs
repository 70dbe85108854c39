//! What of a request's target a handler cannot read, as an error object: actix has texts of its
//! own.

use actix_web::Error;
use actix_web::web::{PathConfig, QueryConfig};

use crate::http::errors::ApiError;
use crate::http::wire::error::{WireError, clip};

/// A query that a route cannot read: a parameter stands twice in it, or its text is none.
pub(in crate::http) fn query() -> QueryConfig {
    QueryConfig::default().error_handler(|error, _| {
        let unfit = WireError::Unfit {
            param: "query".to_owned(),
            found: format!("a text that cannot be read ({})", clip(&error.to_string())),
            expected: "each parameter once".to_owned(),
        };
        Error::from(ApiError::Wire(unfit))
    })
}

/// A path whose parts are no text.
pub(in crate::http) fn path() -> PathConfig {
    PathConfig::default().error_handler(|_, request| Error::from(ApiError::UnknownPath { path: clip(request.path()) }))
}
