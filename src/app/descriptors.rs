//! How many files and connections this process may have open at once.
//!
//! Promises: a server whose limit leaves no room for its own threads is refused before anything is
//! started; one whose limit holds fewer connections than may be open lets in as many as it holds,
//! and says so. Without a descriptor a connection is not even refused: it waits to be accepted, and
//! a probe with it.

use std::io;

use rlimit::Resource;

use super::{AppError, ServeOptions};

/// Descriptors of a server besides its connections and threads: 18 were counted on a CPU, and a
/// GPU's driver opens dozens.
const OWN_COUNT: u64 = 64;
/// Descriptors of a thread that serves connections, prompts or streams: 8 were counted of three.
const THREAD_COUNT: u64 = 3;

/// Raises the limit of open files to the hard limit, and that one to `at_least` where it is lower
/// and the system lets this process; returns the limit that holds from now on.
///
/// # Errors
/// What the system said; the limit is as it was.
pub fn raise(at_least: u64) -> io::Result<u64> {
    let (_, hard) = Resource::NOFILE.get()?;
    if hard < at_least && Resource::NOFILE.set(at_least, at_least).is_ok() {
        return Ok(at_least);
    }
    rlimit::increase_nofile_limit(hard)
}

/// Raises the limit, and lowers to what it holds how many connections the options let in.
///
/// # Errors
/// [`AppError::Descriptors`] if it cannot serve anything.
pub(super) fn fit(options: &mut ServeOptions) -> Result<(), AppError> {
    match raise(0) {
        Ok(limit) => {
            let asked_count = options.connections_max_count;
            let held_count = held(limit, options)?;
            if held_count < asked_count {
                tracing::warn!(
                    "this process may have {limit} files open, which is {held_count} connections, and so many are let in of the \
                     {asked_count} of --connections-max-count; expected a higher hard limit (LimitNOFILE= of a unit, ulimit -Hn)"
                );
            }
            for most in [&mut options.connections_max_count, &mut options.address_connections_max_count] {
                *most = held_count.min(*most);
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files can neither be read nor raised"),
    }
    Ok(())
}

/// How many connections of those that the options let in this limit holds; at least one.
fn held(limit: u64, options: &ServeOptions) -> Result<usize, AppError> {
    let threads_count = options.http_workers_count + options.text_threads_count + options.stream_threads_count;
    let own = OWN_COUNT + THREAD_COUNT * threads_count as u64;
    let needed = own + options.connections_max_count as u64;
    if limit <= own {
        return Err(AppError::Descriptors { limit, own, needed });
    }
    let left = usize::try_from(limit - own).unwrap_or(usize::MAX);
    Ok(left.min(options.connections_max_count))
}
