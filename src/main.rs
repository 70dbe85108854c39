//! The command line: everything it does lives in the library.
#![forbid(unsafe_code)]

fn main() {}
