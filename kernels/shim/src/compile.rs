//! Compiles the shim and kernels with the machine's C++ compiler. Shared by the build script and by
//! tests that plant bugs.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a library is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Build {
    /// The drivers and what runs the fibers.
    Runtime,
    /// Kernels as they are.
    Plain,
    /// Kernels whose every load and store goes past the checker.
    Checked,
}

/// Where the shim's own sources are, and the compiler.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: String,
    version: String,
    /// Folders for `#include`, whose headers are part of what an object depends on.
    pub includes: Vec<PathBuf>,
}

impl Compiler {
    /// `$CXX` or g++.
    ///
    /// # Errors
    /// A sentence, if it cannot be run.
    pub fn find(includes: Vec<PathBuf>) -> Result<Self, String> {
        let program = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
        let output = Command::new(&program).arg("--version").output();
        let output = output.map_err(|error| {
            format!("the CUDA tests need a C++ compiler, and {program} does not run ({error}); on Debian: apt-get install g++")
        })?;
        Ok(Self { program, version: String::from_utf8_lossy(&output.stdout).into_owned(), includes })
    }

    fn flags(&self, build: Build) -> Vec<String> {
        let mut flags: Vec<String> =
            ["-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
                .map(str::to_owned)
                .into();
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            flags.push("-march=x86-64-v3".to_owned());
        }
        if build != Build::Runtime {
            flags.extend(["-DCUDA_SHIM", "-ffp-contract=off", "-Wno-tsan"].map(str::to_owned));
        }
        if build == Build::Checked {
            flags.push("-fsanitize=thread".to_owned());
        }
        flags.extend(self.includes.iter().map(|folder| format!("-I{}", folder.display())));
        flags
    }

    /// What every object depends on besides its own source: compiler, flags, headers.
    fn seed(&self, build: Build) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.program, &self.version, self.flags(build)).hash(&mut hasher);
        for folder in &self.includes {
            for header in files(folder, &["h", "cuh"]) {
                fs::read(header).unwrap_or_default().hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Compiles `sources` (name, text) and links them into a shared library in `folder`, named by
    /// what went into it; an object or library that is there already is not made again.
    ///
    /// # Errors
    /// What the compiler said.
    pub fn library(
        &self,
        build: Build,
        name: &str,
        sources: &[(String, String)],
        link: &[String],
        folder: &Path,
    ) -> Result<PathBuf, String> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let seed = self.seed(build);
        let mut objects = Vec::new();
        for (source_name, text) in sources {
            let mut hasher = DefaultHasher::new();
            (seed, source_name, text).hash(&mut hasher);
            let stem = format!("{name}-{}-{:016x}", source_name.replace('.', "_"), hasher.finish());
            objects.push((source_name, text, folder.join(format!("{stem}.o"))));
        }
        std::thread::scope(|scope| {
            let jobs: usize = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(2);
            let missing: Vec<_> = objects.iter().filter(|(_, _, object)| !object.exists()).collect();
            for some in missing.chunks(jobs.max(1)) {
                let started: Vec<_> = some
                    .iter()
                    .map(|(source, text, object)| scope.spawn(|| self.compile(build, source, text, object)))
                    .collect();
                for one in started {
                    one.join().map_err(|_| "a compiling thread panicked".to_owned())??;
                }
            }
            Ok::<_, String>(())
        })?;
        let mut hasher = DefaultHasher::new();
        (&objects, link).hash(&mut hasher);
        let library = folder.join(format!("lib{name}-{:016x}.so", hasher.finish()));
        if !library.exists() {
            let mut command = Command::new(&self.program);
            command.args(["-shared", "-Wl,-Bsymbolic"]).args(objects.iter().map(|(_, _, object)| object)).args(link);
            finish(command, &library)?;
        }
        Ok(library)
    }

    fn compile(&self, build: Build, source_name: &str, text: &str, object: &Path) -> Result<(), String> {
        let source = object.with_extension("").with_extension(source_name.replace('.', "_") + ".cpp");
        let mut code = String::new();
        // Errors name the file that a person edits.
        writeln!(code, "#line 1 \"{source_name}\"").expect("writing to a string");
        code.push_str(text);
        fs::write(&source, code).map_err(|error| format!("{}: {error}", source.display()))?;
        let mut command = Command::new(&self.program);
        command.args(self.flags(build)).arg("-c").arg(&source);
        let done = finish(command, object);
        let _ = fs::remove_file(source);
        done
    }
}

/// Runs the compiler, whose output goes to `to` once it is whole.
fn finish(mut command: Command, to: &Path) -> Result<(), String> {
    let part = to.with_extension(format!("{}.part", std::process::id()));
    command.arg("-o").arg(&part);
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&part, to).map_err(|error| format!("{}: {error}", to.display()))
}

/// The files of a folder that end in one of `endings`, sorted.
pub fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)))
        .collect();
    found.sort();
    found
}

/// The name and text of each of these files.
///
/// # Errors
/// A file that cannot be read.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<(String, String)>, String> {
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::read_to_string(path).map(|text| (name, text)).map_err(|error| format!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}
