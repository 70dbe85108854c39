//! Compiles the stand-in drivers and the project's kernels for this machine's CPU.

#[allow(dead_code, unreachable_pub, reason = "part of it serves the tests")]
#[path = "src/compile.rs"]
mod compile;

use std::env;
use std::path::PathBuf;

use compile::{Build, Compiler, files, sources};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    for watched in ["cpp", "../cuda", "build.rs", "src/compile.rs"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    // A machine without a C++ compiler builds and runs everything else; the CUDA tests say what they
    // lack.
    let compiler = Compiler::find(vec![root.join("cpp"), root.join("../cuda")]);
    let libraries = match &compiler {
        Ok(compiler) => build(compiler, &root).unwrap_or_else(|error| panic!("{error}")),
        Err(_) => Default::default(),
    };
    println!("cargo:rustc-env=SHIM_MISSING={}", compiler.err().unwrap_or_default());
    for (name, path) in ["DRIVER", "NVRTC", "NCCL", "PLAIN", "CHECKED"].iter().zip(libraries) {
        println!("cargo:rustc-env=SHIM_{name}={}", path.display());
    }
}

fn build(compiler: &Compiler, root: &std::path::Path) -> Result<[PathBuf; 5], String> {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let mut driver = files(&root.join("cpp"), &["cpp"]);
    let mut apart = |name: &str| driver.extract_if(.., |path| path.ends_with(name)).collect::<Vec<_>>();
    let (nvrtc, nccl) = (apart("nvrtc.cpp"), apart("nccl.cpp"));
    // The linker's names are those that the loader is asked for: once loaded by path, these answer.
    let named = |name: &str| vec![format!("-Wl,-soname,{name}")];
    let driver = compiler.library(Build::Runtime, "cuda", &sources(&driver)?, &named("libcuda.so"), &out)?;
    let nvrtc = compiler.library(Build::Runtime, "nvrtc", &sources(&nvrtc)?, &named("libnvrtc.so"), &out)?;
    let link = [driver.display().to_string()];
    let nccl_link = [named("libnccl.so.2"), link.to_vec()].concat();
    let nccl = compiler.library(Build::Runtime, "nccl", &sources(&nccl)?, &nccl_link, &out)?;
    let kernels = sources(&files(&root.join("../cuda"), &["cu"]))?;
    let plain = compiler.library(Build::Plain, "plain", &kernels, &link, &out)?;
    let checked = compiler.library(Build::Checked, "checked", &kernels, &link, &out)?;
    Ok([driver, nvrtc, nccl, plain, checked])
}
