//! `antiphon verify`: quick suites against the embedded model, and servers that are not as they
//! should be.

mod broken;
mod embedded;
mod fake;
mod stopping;

use std::process::{Command, Output};

/// Runs the command to its end.
fn verify(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_antiphon"))
        .arg("verify")
        .args(arguments)
        .env_remove("ANTIPHON_API_KEY")
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
