//! `scripts/gpu-check` with made-up executables: tests that pass and have checked nothing are told
//! and counted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A program that prints `says` and ends with `code`; asked for a report it writes one.
fn program(bundle: &Path, name: &str, says: &str, code: i32) {
    let path = bundle.join(name);
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = report ]; then echo a report >\"$2/report.md\"; exit; fi\n\
         [ \"$1\" = facts ] || echo \"$*\"\ncat <<'END'\n{says}\nEND\nexit {code}\n"
    );
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
}

#[test]
fn skipped_tests_are_counted_by_part_and_in_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, results) = (folder.path().join("bundle"), folder.path().join("results"));
    fs::create_dir(&bundle).expect("made");
    fs::write(bundle.join("commit"), "abc\n").expect("written");
    program(&bundle, "gpu", "", 0);
    program(
        &bundle,
        "kernels",
        "---- a stdout ----\nskipped: a: no wgmma\n---- b stdout ----\nnot skipped: b\nskipped: c: one device",
        0,
    );
    program(&bundle, "engine", "test result: ok. 3 passed", 0);
    program(&bundle, "suite", "skipped: d: no NCCL\ntest result: FAILED", 101);
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check"))
        .arg(&results)
        .args(["facts", "tests"])
        .env("GPU_CHECK_BUNDLE", &bundle)
        .output()
        .expect("the script runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let parts = fs::read_to_string(results.join("parts.jsonl")).expect("the parts are told");
    let parts: Vec<Value> = parts.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let part = |name: &str| {
        let part = parts.iter().find(|part| part["part"] == name).unwrap_or_else(|| panic!("{name}: {said}"));
        (part["status"].as_str().expect("a text").to_owned(), part["skipped"].as_u64().expect("a count"))
    };
    assert_eq!(part("facts"), ("passed".to_owned(), 0));
    assert_eq!(part("tests kernels"), ("passed, 2 skipped".to_owned(), 2));
    assert_eq!(part("tests engine"), ("passed".to_owned(), 0));
    // Both run the same binary.
    assert_eq!(part("tests goldens"), ("failed, 1 skipped".to_owned(), 1));
    assert_eq!(part("tests ranks"), ("failed, 1 skipped".to_owned(), 1));
    assert!(said.contains("skipped: a: no wgmma\n") && said.contains("tests that checked nothing here: 4\n"), "{said}");
    // What a test prints is captured otherwise, and its line with it.
    assert!(said.contains("--show-output"), "{said}");
    assert!(!output.status.success());
}
