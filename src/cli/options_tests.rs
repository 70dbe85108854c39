//! Layers, their order, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::super::file;
use super::super::layers::{Layers, unknown_variables};
use super::*;

fn options(flags: &[(&'static str, &str)], variables: &[(&str, &str)], text: &str) -> Result<ServeOptions, String> {
    let flags: BTreeMap<&'static str, String> = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let file = file::parse(Path::new("a.toml"), text).map_err(|error| error.to_string())?;
    serve_options(&Layers::new(&flags, &variable, &file), &variable).map_err(|error| error.to_string())
}

fn from(options: &ServeOptions, name: &str) -> String {
    options.shown.iter().find(|shown| shown.name == name).expect("a setting").from.clone()
}

#[test]
fn a_flag_comes_before_the_environment_before_the_file_before_the_profile() {
    let file = "running_max_count = 1\n";
    assert_eq!(
        options(&[], &[], file).unwrap_err(),
        "a.toml, line 1: `running_max_count` stands in the wrong place; expected it in [batch]"
    );
    let file = "[batch]\nrunning_max_count = 3\n";
    let cases: [(&[_], &[_], &str, u64, &str); 4] = [
        (&[("running_max_count", "5")], &[("ANTIPHON_RUNNING_MAX_COUNT", "4")], file, 5, "flag --running-max-count"),
        (&[], &[("ANTIPHON_RUNNING_MAX_COUNT", "4")], file, 4, "environment ANTIPHON_RUNNING_MAX_COUNT"),
        (&[], &[("ANTIPHON_RUNNING_MAX_COUNT", "")], file, 3, "a.toml, line 2"),
        (&[("profile", "throughput")], &[], "", 256, "profile throughput"),
    ];
    for (flags, variables, text, count, origin) in cases {
        let options = options(flags, variables, text).unwrap();
        assert_eq!(options.profile.batch.running_max_count.get(), count);
        assert_eq!(from(&options, "running_max_count"), origin);
    }
    assert_eq!(from(&options(&[], &[], "").unwrap(), "port"), "default");
}

#[test]
fn every_setting_of_a_profile_can_be_set_over_it_and_no_other() {
    let tables = Profile::load("balanced").expect("built in").tables();
    let keys: Vec<(String, String)> = tables
        .iter()
        .filter_map(|(section, value)| Some((section, value.as_table()?)))
        .flat_map(|(section, keys)| keys.keys().map(|key| (section.clone(), key.clone())))
        .collect();
    let mut settings: Vec<(String, String)> =
        SETTINGS.iter().filter_map(|setting| Some((setting.section?.to_owned(), setting.name.to_owned()))).collect();
    settings.sort();
    assert_eq!(settings, {
        let mut keys = keys;
        keys.sort();
        keys
    });
}

#[test]
fn what_is_printed_can_be_read_again() {
    let given = options(
        &[("port", "0"), ("served_model_name", "a,b"), ("prompt_version", "SYS/v2")],
        &[("ANTIPHON_ERROR_RATE_MAX", "0.25"), ("ANTIPHON_API_KEY", "hush")],
        "system_date = 2026-11-22\nkv_bytes = \"1.5GiB\"\n[stream]\ncoalesce_max_ms = 0x37\n",
    )
    .unwrap();
    let printed = as_file(&given.shown, true);
    assert!(!printed.contains("hush") && !format!("{given:?}").contains("hush"), "a key is never shown");
    let again = options(&[], &[("ANTIPHON_API_KEY", "hush")], &printed).unwrap();
    assert_eq!(ServeOptions { shown: given.shown.clone(), ..again }, given);
    assert_eq!((given.port, given.kv_bytes, given.system_date.as_deref()), (0, Some(3 << 29), Some("2026-11-22")));
    assert_eq!(given.served_model_names, ["a", "b"]);
    assert_eq!((given.profile.stream.coalesce_max_ms.get(), given.profile.targets.error_rate_max.get()), (55, 0.25));
}

#[test]
fn nonsense_is_refused_with_what_was_expected_and_who_gave_it() {
    let mut nonsense = vec![
        ("port", "70000", "a whole number from 0 to 65535"),
        ("port", "-1", "a whole number from 0 to 65535"),
        ("port", "", "a whole number from 0 to 65535"),
        ("host", "", "an address such as 127.0.0.1"),
        ("http_workers", "0", "a whole number from 1 to 1024"),
        ("text_threads", "1025", "a whole number from 1 to 1024"),
        ("memory_budget", "63MiB", "auto or a size from 64MiB"),
        ("stream_threads", "many", "a whole number from 1 to 1024"),
        ("connections_max_count", "0", "a whole number from 1 to 1048576"),
        ("address_connections_max_count", "many", "a whole number from 1 to 1048576"),
        ("body_max_bytes", "1", "a size from 1KiB to 1GiB"),
        ("sse_dialect", "OpenAI", "openai, events or both"),
        ("threads", "10000", "auto or a whole number from 1 to 1024"),
        ("cpu_math", "quick", "exact, int16 or fast"),
        ("cpu_dense", "mxfp4", "bf16 or int8"),
        ("cpu_isa", "mmx", "auto, or portable, avx2, avx-vnni, avx-512 or amx where the CPU has it"),
        ("keep_packed_weights", "yes", "on or off"),
        ("cuda_prefill", "tma", "mma or wgmma"),
        ("threads", "0", "auto or a whole number from 1 to 1024"),
        ("kv_bytes", "4 parsecs", "auto or a size from 1MiB"),
        ("kv_bytes", "99999999999TiB", "auto or a size from 1MiB"),
        ("prompt_version", "v1", "SYS/v0, SYS/v1 or SYS/v2"),
        ("drain_delay_seconds", "-1", "a whole number to 86400"),
        ("drain_timeout_seconds", "1.5", "a whole number to 86400"),
        ("watchdog_seconds", "0", "a whole number from 1 to 86400"),
        ("prefill_window_ms", "soon", "a number"),
        ("prefill_window_ms", "-1", "a whole number from 0 to 10000"),
        ("error_rate_max", "nan", "a number from 0 to 1"),
        ("error_rate_max", "inf", "a number from 0 to 1"),
    ];
    nonsense.extend(["gpu", "cuda:", "cuda:x", "cuda:-1"].map(|device| ("device", device, "auto, cpu, cuda:N or sim")));
    nonsense.extend(
        ["2026-02-30", "2026-2-3", "26-02-03", "2026-13-01", "yesterday", "2026-11-22-1"]
            .map(|date| ("system_date", date, "today or a date such as 2026-11-22")),
    );
    for (name, value, expected) in nonsense {
        let said = options(&[(name, value)], &[], "").expect_err(value);
        assert_eq!(said, format!("{name} is `{value}`; expected {expected}; given by flag --{}", name.replace('_', "-")));
    }
    let said = options(&[("profile", "fast")], &[], "").unwrap_err();
    assert!(said.ends_with("or the path of a .toml file; given by flag --profile"), "{said}");
    let said = options(&[("token_budget_tokens", "1")], &[], "").unwrap_err();
    assert!(said.contains("expected at most token_budget_tokens, which is 1"), "{said}");
}

#[test]
fn a_file_is_refused_with_its_line() {
    for (text, said) in [
        ("\nprot = 1", "line 2: unknown setting `prot`; expected one that"),
        ("[batch]\nport = 1", "line 2: `port` stands in the wrong place; expected it before the first table"),
        ("[queue]\nprefill_window_ms = 1", "line 2: `prefill_window_ms` stands in the wrong place; expected it in [batch]"),
        ("[bach]\nx = 1", "line 1: unknown setting `bach`"),
        ("batch = 3", "line 1: unknown setting `batch`"),
        ("port = [1, 2]", "line 1: port is of type array; expected a single value"),
        ("[port]\na = 1", "line 1: port is of type table; expected a single value"),
        ("port = 1\nport = 2", "line 2: duplicate key"),
        ("api_key = \"x\"", "unknown setting `api_key`"),
        ("port = ", "line 1: "),
        ("port = 70000", "port is `70000`; expected a whole number from 0 to 65535; given by a.toml, line 1"),
    ] {
        let found = options(&[], &[], text).expect_err(text);
        assert!(found.contains(said), "{text:?}: {found}");
    }
}

#[test]
fn keys_come_from_the_environment_and_a_file_and_a_lock_without_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, "first\n\n  second \n").unwrap();
    let path = path.to_str().unwrap();
    let keys = |options: ServeOptions| options.api_keys.iter().map(|key| key.reveal().to_owned()).collect::<Vec<_>>();
    assert!(keys(options(&[], &[], "").unwrap()).is_empty());
    let both = options(&[("api_key_file", path)], &[("ANTIPHON_API_KEY", "zeroth")], "").unwrap();
    assert_eq!(keys(both), ["zeroth", "first", "second"]);
    fs::write(path, "\n").unwrap();
    let said = options(&[], &[("ANTIPHON_API_KEY_FILE", path)], "").unwrap_err();
    assert!(
        said.contains("it holds no key; expected a file with a key a line; given by environment ANTIPHON_API_KEY_FILE"),
        "{said}"
    );
    assert!(options(&[("api_key_file", "/no/such")], &[], "").unwrap_err().contains("No such file"));
    for empty in ["", " ", "\n"] {
        let said = options(&[], &[("ANTIPHON_API_KEY", empty)], "").unwrap_err();
        assert!(said.contains("ANTIPHON_API_KEY is set and empty"), "{said}");
    }
}

#[test]
fn admins_have_a_file_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admins");
    fs::write(&path, "root\n").unwrap();
    let given = options(&[("admin_key_file", path.to_str().unwrap()), ("metrics_access", "admin")], &[], "").unwrap();
    assert_eq!(given.admin_keys.iter().map(|key| key.reveal()).collect::<Vec<_>>(), ["root"]);
    assert!(given.api_keys.is_empty());
    assert_eq!(given.metrics_access, MetricsAccess::Admin);
    fs::write(&path, "").unwrap();
    assert!(given.key_sources.read().unwrap_err().contains("it holds no key"));
    let said = options(&[("metrics_access", "all")], &[], "").unwrap_err();
    assert!(said.contains("key, admin or open"), "{said}");
}

#[test]
fn misspelt_variables_are_noticed() {
    let names = ["ANTIPHON_PORT", "ANTIPHON_API_KEY", "ANTIPHON_CONFIG", "PATH", "ANTIPHON_PROT"].map(str::to_owned);
    assert_eq!(unknown_variables(names.into_iter()), ["ANTIPHON_PROT"]);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(index in 0..SETTINGS.len(), text in "\\PC{0,12}") {
        let _ = options(&[(SETTINGS[index].name, &text)], &[], "");
        let _ = options(&[], &[], &text);
        let _ = options(&[], &[], &format!("{} = {text}", SETTINGS[index].name));
    }

    #[test]
    fn sizes_are_what_they_say(bytes in 0_u64..1 << 40) {
        prop_assert_eq!(size(&bytes.to_string()), Some(bytes));
        prop_assert_eq!(size(&format!("{bytes}KiB")), Some(bytes << 10));
    }
}
