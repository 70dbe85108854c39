//! The shim against plain loops, and against bugs.

mod bugs;
mod driver;
mod samples;
