//! Which file of a folder imports which: no two import each other, by whatever way round.

use std::collections::{BTreeMap, BTreeSet};

use super::layers::test_files;
use super::reader::{Code, NamedPath};
use super::{fail_if_any, sources};

/// Folders whose files are in no circle, each with where its package's code lies.
const FOLDERS: [(&str, &str); 1] = [("kernels/src/", "kernels/src/cuda/")];

/// Re-exports that a name passes on its way, at most.
const STEPS_MAX: usize = 8;

/// What imports what, by name.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// A file as a module of its package.
struct Module<'a> {
    file: &'a str,
    /// Its path from the root of the package.
    path: Vec<&'a str>,
    /// The modules that it declares.
    children: Vec<&'a str>,
    names: Vec<NamedPath<'a>>,
}

impl<'a> Module<'a> {
    fn of(base: &str, file: &'a str, text: &'a str) -> Self {
        let mut path: Vec<_> = file[base.len()..].trim_end_matches(".rs").split('/').collect();
        _ = path.pop_if(|last| ["mod", "lib", "main"].contains(last));
        let code = Code::read(text);
        let declared = code.tokens.windows(3).filter(|tokens| tokens[0].text == "mod" && tokens[2].text == ";");
        Self { file, path, children: declared.map(|tokens| tokens[1].text).collect(), names: code.paths() }
    }

    /// From the root of the package, what `segments` name here; `None` where they name a crate or
    /// something of this file.
    fn absolute(&self, segments: &[&'a str]) -> Option<Vec<&'a str>> {
        let ups = segments.iter().take_while(|segment| **segment == "super").count();
        let (base, rest) = match *segments.first()? {
            "crate" => (&[][..], &segments[1..]),
            "self" => (&self.path[..], &segments[1..]),
            "super" => (&self.path[..self.path.len().saturating_sub(ups)], &segments[ups..]),
            child if self.children.contains(&child) => (&self.path[..], segments),
            _ => return None,
        };
        Some([base, rest].concat())
    }
}

/// The module that declares what `path` names, behind every re-export.
fn declares<'m, 'a>(modules: &'m [Module<'a>], mut path: Vec<&'a str>) -> Option<&'m Module<'a>> {
    for _ in 0..STEPS_MAX {
        let owners = modules.iter().filter(|module| path.starts_with(&module.path));
        let module = owners.max_by_key(|module| module.path.len())?;
        let Some(item) = path.get(module.path.len()) else { return Some(module) };
        let exported = module.names.iter().find(|name| name.is_exported && name.bound == Some(item));
        let Some(next) = exported.and_then(|name| module.absolute(&name.segments)) else { return Some(module) };
        let rest = path.split_off(module.path.len() + 1);
        path = [next, rest].concat();
    }
    None
}

/// What each file below `folder` imports of the others. A `pub use` is no import: what it names is
/// looked for where it is declared.
fn imports(base: &str, folder: &str, sources: &[(String, String)]) -> Imports {
    let rust = sources.iter().filter(|(file, _)| file.starts_with(base) && file.ends_with(".rs"));
    let tests: Vec<_> = rust.clone().flat_map(|(file, text)| test_files(file, &Code::read(text))).collect();
    let kept = rust.filter(|(file, _)| !tests.iter().any(|test| file.starts_with(test)));
    let modules: Vec<_> = kept.map(|(file, text)| Module::of(base, file, text)).collect();
    let within = modules.iter().filter(|module| module.file.starts_with(folder));
    within
        .map(|module| {
            let used = module.names.iter().filter(|name| !name.is_exported);
            let named = used.filter_map(|name| declares(&modules, module.absolute(&name.segments)?));
            let others = named.filter(|other| other.file != module.file && other.file.starts_with(folder));
            (module.file.to_owned(), others.map(|other| other.file.to_owned()).collect())
        })
        .collect()
}

/// The same between what `part_of` makes of the files.
fn between(imports: &Imports, part_of: impl Fn(&str) -> String) -> Imports {
    let mut parts = Imports::new();
    for (file, imported) in imports {
        let part = part_of(file);
        let others = imported.iter().map(|file| part_of(file)).filter(|other| *other != part);
        parts.entry(part.clone()).or_default().extend(others);
    }
    parts
}

/// One of `left` that a file imports.
fn imported_among<'a>(imports: &Imports, file: &str, left: &BTreeSet<&'a str>) -> Option<&'a str> {
    imports[file].iter().find_map(|other| left.get(other.as_str()).copied())
}

/// A circle, from a file to itself, if there is one.
fn circle(imports: &Imports) -> Option<Vec<&str>> {
    let mut left: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    while let Some(free) = left.iter().copied().find(|file| imported_among(imports, file, &left).is_none()) {
        left.remove(free);
    }
    // Every file that is left imports another one that is, so a walk comes back to where it was.
    let mut walk = vec![*left.first()?];
    loop {
        let next = imported_among(imports, walk[walk.len() - 1], &left)?;
        if let Some(first) = walk.iter().position(|file| *file == next) {
            return Some([&walk[first..], &[next]].concat());
        }
        walk.push(next);
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let mut offences = Vec::new();
    for (base, folder) in FOLDERS {
        let imports = imports(base, folder, &sources);
        assert!(imports.values().filter(|imported| !imported.is_empty()).count() > 3, "{folder} has files that import others");
        offences.extend(circle(&imports).map(|files| files.join(" -> ")));
    }
    let kernels = imports("kernels/src/", "kernels/src/", &sources);
    let part_of = |file: &str| file["kernels/src/".len()..].split('/').next().unwrap_or_default().to_owned();
    offences.extend(circle(&between(&kernels, part_of)).map(|parts| parts.join(" -> ")));
    fail_if_any("files that import each other in a circle", &offences);
}

/// Circles of two and of three files, by `super`, by `crate`, through a re-export and in an
/// expression; none through what only tests have.
#[test]
fn a_circle_is_found_whatever_way_it_goes() {
    let found = |files: [(&str, &str); 4]| {
        let sources: Vec<_> = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        let imports = imports("src/", "src/a/", &sources);
        circle(&imports).map(|files| files.join(" ").replace("src/a/", "").replace(".rs", ""))
    };
    let parent = "mod b; mod c; mod d; pub use b::B; pub(crate) use d::{D, d as e};";
    let with = |b, c, d| found([("src/a/mod.rs", parent), ("src/a/b.rs", b), ("src/a/c.rs", c), ("src/a/d.rs", d)]);
    for (b, c, d, expected) in [
        ("use super::c::C;", "use super::b::B;", "", Some("b c b")),
        ("use super::c::C;", "fn f() -> crate::a::B { B }", "", Some("b c b")),
        ("use super::c::C;", "use super::D;", "fn f() { super::B::new() }", Some("b c d b")),
        ("use super::c::C;", "use super::e;", "use super::{c::C, x};", Some("c d c")),
        ("use super::c::C;", "use super::d::D;", "#[cfg(test)] use super::B; use std::b;", None),
        ("use super::{c::C, D, e};", "use self::x; use super::D;", "struct D; impl D { fn f() -> self::D { B::new() } }", None),
    ] {
        assert_eq!(with(b, c, d).as_deref(), expected, "{b} {c} {d}");
    }
    let parent_of_all =
        [("src/a/mod.rs", "mod b; use b::B; struct A;"), ("src/a/b.rs", "use super::A;"), ("src/a/c.rs", ""), ("src/x.rs", "")];
    assert_eq!(found(parent_of_all).as_deref(), Some("b mod b"));
}
