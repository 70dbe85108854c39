//! Kernels with a bug on purpose: the checks of this crate are worth what they find.

use std::path::{Path, PathBuf};

use crate::api::api;
use crate::compile::{Build, Compiler, files, sources};

/// One change to one kernel file.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// What is wrong, in a word or two; also the library's name.
    pub name: &'static str,
    /// The file, in `kernels/cuda` unless the test says otherwise.
    pub file: &'static str,
    /// A text that occurs there exactly once.
    pub from: &'static str,
    /// What stands there instead.
    pub to: &'static str,
}

/// The image of a module that wants the kernels of the library called `name`; ends with a zero
/// byte.
#[must_use]
pub fn library_image(name: &str) -> Vec<u8> {
    format!("antiphon-shim:library {name}\0").into_bytes()
}

/// Compiles the `.cu` files of `folder`, with `bug` in them, plain and checked, and returns the
/// image that names them.
///
/// # Panics
/// If the text to change does not occur exactly once, or the compiler refuses.
#[must_use]
pub fn load_library(name: &str, folder: &Path, bug: Option<Planted>) -> Vec<u8> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let compiler = Compiler::find(vec![own.join("cpp"), own.join("../cuda")]).unwrap_or_else(|error| panic!("{error}"));
    let mut code = sources(&files(folder, &["cu"])).unwrap_or_else(|error| panic!("{error}"));
    if let Some(bug) = bug {
        // A header's text takes the place of the line that includes it.
        let include = format!("#include \"{}\"\n", bug.file);
        code.retain(|(file, text)| file == bug.file || text.contains(&include));
        let header = std::fs::read_to_string(folder.join(bug.file)).unwrap_or_else(|error| panic!("{}: {error}", bug.file));
        let header = header.replacen("#pragma once\n", "", 1);
        code.iter_mut().for_each(|(_, text)| *text = text.replacen(&include, &header, 1));
        let Some((_, text)) = code.first_mut() else { panic!("no file with {} in {}", bug.file, folder.display()) };
        assert_eq!(text.matches(bug.from).count(), 1, "{}: `{}` must occur once in {}", bug.name, bug.from, bug.file);
        code.iter_mut().for_each(|(_, text)| *text = text.replace(bug.from, bug.to));
    }
    let out = PathBuf::from(env!("SHIM_DRIVER")).parent().expect("a file lies in a folder").join("planted");
    let link = [env!("SHIM_DRIVER").to_owned()];
    for (build, checked) in [(Build::Plain, false), (Build::Checked, true)] {
        let library = format!("{name}-{}", if checked { "checked" } else { "plain" });
        let path = compiler.library(build, &library, &code, &link, &out).unwrap_or_else(|error| panic!("{error}"));
        api().load(&path.to_string_lossy(), name, checked);
    }
    library_image(name)
}
