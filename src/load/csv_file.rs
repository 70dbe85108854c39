//! Every request as a line of CSV.

use super::LoadError;
use super::record::Record;

/// Writes all requests, a line each under a line of names.
///
/// # Errors
/// [`LoadError::Write`].
pub fn write_csv(path: &str, records: &[Record]) -> Result<(), LoadError> {
    let wrong = |message: String| LoadError::Write { path: path.to_owned(), message };
    let mut writer = csv::Writer::from_path(path).map_err(|error| wrong(error.to_string()))?;
    for record in records {
        writer.serialize(record).map_err(|error| wrong(error.to_string()))?;
    }
    writer.flush().map_err(|error| wrong(error.to_string()))
}
