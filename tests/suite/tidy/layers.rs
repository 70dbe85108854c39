//! Which room imports which, and which crates a room uses: every file of a room against the table of
//! `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::reader::Code;
use super::{fail_if_any, root, sources};

/// A row of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Room<'a> {
    name: &'a str,
    /// Rooms, or parts of a room (`engine::fake`).
    imports: Vec<&'a str>,
    crates: Vec<&'a str>,
    never_names: Vec<&'a str>,
}

/// The rooms of the table that begins with `| room |`. A cell's names stand in backticks; what else
/// stands there is for people.
fn table(page: &str) -> Vec<Room<'_>> {
    let rows = page.lines().skip_while(|line| !line.starts_with("| room |")).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(|cell| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>());
            let mut next = || cells.next().unwrap_or_default();
            let (room, _owns) = (next(), next());
            assert_eq!(room.len(), 1, "a row names one room in backticks: {row}");
            Room { name: room[0], imports: next(), crates: next(), never_names: next() }
        })
        .collect()
}

/// The crates that a package may name, as code spells them: those under `[dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let names = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    names.map(|(name, _)| name.trim().replace('-', "_")).filter(|name| !name.starts_with('#')).collect()
}

/// The room of a file: of `src` its folder, of another package that package. `None` for `lib.rs`
/// and `main.rs` of the root.
fn room_of(file: &str) -> Option<&str> {
    if let Some(rest) = file.strip_prefix("src/") {
        let room = rest.split('/').next()?.trim_end_matches(".rs");
        return (!["lib", "main"].contains(&room)).then_some(room);
    }
    let packages = [("kernels/src/", "kernels/"), ("kernels/shim/src/", "kernels/shim/")];
    packages.iter().find(|(folder, _)| file.starts_with(folder)).map(|(_, room)| *room)
}

/// The files and folders of modules that are declared for tests alone.
pub(super) fn test_files(file: &str, code: &Code<'_>) -> Vec<String> {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let stem = name.trim_end_matches(".rs");
    let children = if ["mod", "lib", "main"].contains(&stem) { folder.to_owned() } else { format!("{folder}/{stem}") };
    let modules = code.test_modules.iter();
    modules
        .flat_map(|module| match module.path {
            Some(path) => [format!("{folder}/{path}"), format!("{folder}/{}/", path.trim_end_matches(".rs"))],
            None => [format!("{children}/{}.rs", module.name), format!("{children}/{}/", module.name)],
        })
        .collect()
}

/// The room, and the part of it, that a path of this package names; `depth` is how deep the module
/// lies that names it.
fn imported<'a>(segments: &'a [&'a str], depth: usize) -> Option<&'a [&'a str]> {
    let ups = segments.iter().take_while(|segment| **segment == "super").count();
    match segments[0] {
        "crate" => Some(&segments[1..]),
        "super" if ups >= depth => Some(&segments[ups..]),
        _ => None,
    }
}

/// What a file names of the other rooms and of crates.
#[derive(Debug, Default)]
struct Verdict {
    /// What its room may not name, each with its line.
    offences: Vec<String>,
    /// The rooms and crates of its row that it needs.
    used: BTreeSet<String>,
}

impl Verdict {
    /// Judges a file of `room`; `crates` are all that its package depends on.
    fn of(room: &Room<'_>, rooms: &[Room<'_>], crates: &BTreeSet<String>, file: &str, code: &Code<'_>) -> Self {
        let paths = code.paths();
        let declared = code.tokens.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].text);
        let bound = paths.iter().filter(|path| path.segments.len() > 1).filter_map(|path| path.bound);
        let own_names: BTreeSet<&str> = declared.chain(bound).collect();
        let depth = file.trim_end_matches("/mod.rs").split('/').count() - 1;
        let mut verdict = Self::default();
        for path in &paths {
            let (line, shown) = (path.line, path.segments.join("::"));
            let target = imported(&path.segments, depth);
            let is_room = |name: &str| name != room.name && rooms.iter().any(|known| known.name == name);
            if let Some(target) = target.filter(|target| target.first().is_some_and(|first| is_room(first))) {
                let within = |allowed: &&&str| target.starts_with(&allowed.split("::").collect::<Vec<_>>());
                match room.imports.iter().find(within) {
                    Some(allowed) => _ = verdict.used.insert((*allowed).to_owned()),
                    None => verdict.offences.push(format!("{file}:{line}: {} may not import {shown}", room.name)),
                }
            }
            let head = path.segments[0];
            if crates.contains(head) && !own_names.contains(head) {
                verdict.used.insert(head.to_owned());
                if !room.crates.contains(&head) {
                    verdict.offences.push(format!("{file}:{line}: {} may not use the crate {head}: {shown}", room.name));
                }
            }
        }
        for token in code.tokens.iter().filter(|token| room.never_names.contains(&token.text)) {
            verdict.offences.push(format!("{file}:{}: {} may not name {}", token.line, room.name, token.text));
        }
        verdict
    }
}

/// The crates that a room may name at all: those of its package.
fn crates_of(room: &str) -> BTreeSet<String> {
    let folder = if room.ends_with('/') { room } else { "" };
    dependencies(&fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a package has a manifest"))
}

/// What files name that the table does not allow, and what each room uses of what it allows.
fn judged(rooms: &[Room<'_>], sources: &[(String, String)]) -> (Vec<String>, BTreeMap<String, BTreeSet<String>>) {
    let files: Vec<_> = sources
        .iter()
        .filter(|(file, _)| file.ends_with(".rs"))
        .filter_map(|(file, text)| Some((file, room_of(file)?, Code::read(text))))
        .collect();
    let tests: Vec<String> = files.iter().flat_map(|(file, _, code)| test_files(file, code)).collect();
    let (mut offences, mut used) = (Vec::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for (file, room, code) in files.iter().filter(|(file, ..)| !tests.iter().any(|test| file.starts_with(test))) {
        let Some(known) = rooms.iter().find(|known| known.name == *room) else {
            offences.push(format!("{file}: `{room}` is a room that the table does not know"));
            continue;
        };
        let verdict = Verdict::of(known, rooms, &crates_of(room), file, code);
        offences.extend(verdict.offences);
        used.entry((*room).to_owned()).or_default().extend(verdict.used);
    }
    (offences, used)
}

/// What `sources` name that `docs/architecture.md` does not allow.
pub(super) fn trespasses(sources: &[(String, String)]) -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("readable");
    judged(&table(&page), sources).0
}

#[test]
fn imports_point_down() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("readable");
    let rooms = table(&page);
    let (mut offences, mut used) = judged(&rooms, &sources());
    for package in ["", "kernels/", "kernels/shim/"] {
        let is_own = |room: &str| if package.is_empty() { !room.ends_with('/') } else { room == package };
        let of_package = used.iter().filter(|(room, _)| is_own(room));
        let used: BTreeSet<_> = of_package.flat_map(|(_, used)| used).collect();
        let idle = crates_of(package).into_iter().filter(|name| !used.contains(name));
        offences
            .extend(idle.map(|name| format!("{package}Cargo.toml: `{name}` is a dependency that only tests use, or nothing")));
    }
    for room in &rooms {
        let used = used.remove(room.name).unwrap_or_else(|| panic!("the room `{}` has no file", room.name));
        let idle = room.imports.iter().chain(&room.crates).filter(|allowed| !used.contains(**allowed));
        offences.extend(idle.map(|allowed| format!("{}: its row allows `{allowed}`, which it does not use", room.name)));
    }
    fail_if_any("imports point down, and a room uses the crates of its row (docs/architecture.md)", &offences);
}

const PAGE: &str = "before\n\n| room | owns | may import | crates | never names |\n|---|---|---|---|---|\n\
    | `batch` | the contract | | | |\n| `core` | `x` | `batch`, `engine::fake` | | `Instant` |\n| `engine` | | | `serde` | |\n\nafter";

#[test]
fn the_table_is_read_from_its_page() {
    let rooms = table(PAGE);
    assert_eq!(rooms.iter().map(|room| room.name).collect::<Vec<_>>(), ["batch", "core", "engine"]);
    let core = Room { name: "core", imports: vec!["batch", "engine::fake"], crates: vec![], never_names: vec!["Instant"] };
    assert_eq!(rooms[1], core);
    let manifest = "[package]\nname = \"a\"\n[dependencies]\nserde_json = \"1\"\n# why = so\nactix-web = { version = \"4\" }\n\n[lints]\nb = 1";
    assert_eq!(dependencies(manifest).into_iter().collect::<Vec<_>>(), ["actix_web", "serde_json"]);
}

/// An offence of each kind, after a test item that earlier checks took for the end of the file.
#[test]
fn an_offence_of_each_kind_is_found() {
    let rooms = table(PAGE);
    let crates = BTreeSet::from(["serde".to_owned(), "time".to_owned()]);
    let judge = |file: &str, line: &str| {
        let text = format!("mod a;\n#[cfg(test)]\nmod tests;\n{line}\n");
        Verdict::of(&rooms[1], &rooms, &crates, file, &Code::read(&text)).offences
    };
    let file = "src/core/mod.rs";
    for (line, expected) in [
        ("use crate::engine::Engine;", "src/core/mod.rs:4: core may not import crate::engine::Engine"),
        ("use crate::{batch, engine as fake};", "src/core/mod.rs:4: core may not import crate::engine"),
        ("fn f() -> super::engine::Engine {}", "src/core/mod.rs:4: core may not import super::engine::Engine"),
        ("use serde::de;", "src/core/mod.rs:4: core may not use the crate serde: serde::de"),
        ("fn f() { ::time::now() }", "src/core/mod.rs:4: core may not use the crate time: time::now"),
        ("#[derive(serde::Serialize)] struct A;", "src/core/mod.rs:4: core may not use the crate serde: serde::Serialize"),
        ("use std::time::{Duration, Instant as Now};", "src/core/mod.rs:4: core may not name Instant"),
    ] {
        assert_eq!(judge(file, line), [expected], "{line}");
    }
    for line in [
        "use crate::{batch::Micros, engine::fake::FakeEngine, core::a};",
        "use std::time; fn f() -> time::Duration { self::a::serde() }",
        "// crate::engine, serde::de\nconst A: &str = \"crate::engine serde::de Instant\";",
        "#[cfg(test)] use crate::engine::Engine;",
    ] {
        assert_eq!(judge(file, line), Vec::<String>::new(), "{line}");
    }
    assert_eq!(judge("src/core/b/c.rs", "use super::super::super::engine::Engine; use super::super::engine::A;").len(), 1);
}

#[test]
fn files_that_only_tests_have_are_known() {
    let text = "#[cfg(test)] mod tests; #[cfg(test)] #[path = \"b_tests.rs\"] mod b;";
    let files = |file| test_files(file, &Code::read(text));
    assert_eq!(files("src/a/mod.rs"), ["src/a/tests.rs", "src/a/tests/", "src/a/b_tests.rs", "src/a/b_tests/"]);
    assert_eq!(files("src/a/c.rs")[..2], ["src/a/c/tests.rs", "src/a/c/tests/"]);
}
