//! Embeds the CUDA kernels: their sources always, and compiled ones where nvcc is at hand.
//!
//! nvcc is `$NVCC`, or, for release builds, what `scripts/cuda-toolchain` set up. A build without
//! either takes no longer than it would without CUDA; the binary then compiles the kernels with
//! NVRTC when it starts.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Code for each of these, and PTX of the first for what comes later. `a`: the code runs on no
/// other architecture.
const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90a", "100a", "120a"];
const PTX: &str = "80";
const TOOLCHAIN: &str = "../.cuda/wheels/nvidia/cu13/bin/nvcc";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=NVCC");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let (headers, files) = (listed(&root.join("cuda"), "cuh"), listed(&root.join("cuda"), "cu"));
    let nvcc = nvcc(&root);
    let fatbins: Vec<Option<PathBuf>> = match &nvcc {
        Some(nvcc) => compile(nvcc, &headers, &files, &out).into_iter().map(Some).collect(),
        None => vec![None; files.len()],
    };
    fs::write(out.join("cuda_files.rs"), table(&headers, &files, &fatbins)).expect("the build folder can be written");
}

fn nvcc(root: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("NVCC").filter(|name| !name.is_empty()) {
        return Some(PathBuf::from(named));
    }
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let toolchain = Some(root.join(TOOLCHAIN)).filter(|path| path.exists());
        // Cargo takes a path that is not there for changed, and would build everything anew each time.
        if toolchain.is_some() {
            println!("cargo:rerun-if-changed={TOOLCHAIN}");
        }
        return toolchain;
    }
    None
}

fn listed(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|known| known == ending)).collect();
    found.sort();
    found
}

/// One fatbin a file, made again only if it, a header or the compiler changed.
fn compile(nvcc: &Path, headers: &[PathBuf], files: &[PathBuf], out: &Path) -> Vec<PathBuf> {
    let version = Command::new(nvcc).arg("--version").output();
    let version = version.unwrap_or_else(|error| panic!("NVCC={} does not run: {error}", nvcc.display())).stdout;
    let target = |file: &PathBuf| {
        let mut hasher = DefaultHasher::new();
        (&version, ARCHITECTURES, PTX).hash(&mut hasher);
        for path in headers.iter().chain([file]) {
            fs::read(path).expect("a kernel can be read").hash(&mut hasher);
        }
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        out.join(format!("{stem}-{:016x}.fatbin", hasher.finish()))
    };
    let targets: Vec<_> = files.iter().map(target).collect();
    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(2);
    let missing: Vec<_> = files.iter().zip(&targets).filter(|(_, target)| !target.exists()).collect();
    for some in missing.chunks(jobs.max(1)) {
        std::thread::scope(|scope| {
            for (file, target) in some {
                scope.spawn(|| compile_one(nvcc, file, target));
            }
        });
    }
    targets
}

fn compile_one(nvcc: &Path, file: &Path, target: &Path) {
    let part = target.with_extension("part");
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Werror", "all-warnings"]);
    for architecture in ARCHITECTURES {
        command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    }
    command.arg(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}")).arg(file).arg("-o").arg(&part);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&part, target).expect("the build folder can be written");
}

/// The sources and the compiled code as Rust. Paths are the compiler's to complete: a checkout may
/// be moved with what it built.
fn table(headers: &[PathBuf], files: &[PathBuf], fatbins: &[Option<PathBuf>]) -> String {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let source = |path| format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/cuda/{}\"))", name(path));
    let code = |path| format!("Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{}\")))", name(path));
    let mut text = String::from("const HEADERS: &[(&str, &str)] = &[\n");
    for header in headers {
        writeln!(text, "    ({:?}, {}),", name(header), source(header)).expect("writing to a string");
    }
    text.push_str("];\nconst FILES: &[KernelFile] = &[\n");
    for (file, fatbin) in files.iter().zip(fatbins) {
        let fatbin = fatbin.as_ref().map_or("None".to_owned(), code);
        let line = format!("    KernelFile {{ name: {:?}, source: {}, fatbin: {fatbin} }},", name(file), source(file));
        writeln!(text, "{line}").expect("writing to a string");
    }
    text.push_str("];\n");
    text
}
