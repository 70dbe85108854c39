//! The kernels' code: embedded as fatbins where the build had nvcc, else compiled by NVRTC at the
//! first start.
//!
//! Promises: code compiled once for an architecture is kept on disk, named by everything that went
//! into it, and found there by the next start. Absent: which kernels there are, and their launches.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, DriverError};
use cudarc::nvrtc::{Ptx, sys};

/// One file of `kernels/cuda`.
struct KernelFile {
    name: &'static str,
    source: &'static str,
    fatbin: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/cuda_files.rs"));

/// Why there is no code for a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// The device is too old.
    #[error("this GPU has compute capability {}.{}; the kernels need 8.0 (Ampere) or newer", .0.0, .0.1)]
    Architecture((u32, u32)),
    /// The driver is too old for the code that is there.
    #[error(
        "the driver serves CUDA {}.{} and cannot load the kernels ({message}); they need driver 580 (CUDA 13.0) or newer",
        .version.0, .version.1
    )]
    DriverTooOld {
        /// Newest CUDA version that the driver serves.
        version: (u32, u32),
        /// What it said.
        message: String,
    },
    /// The driver refused the code.
    #[error("the driver failed to load the kernels of {file}: {message}")]
    Load {
        /// The kernels' file.
        file: &'static str,
        /// What the driver said.
        message: String,
    },
    /// Neither embedded code nor NVRTC.
    #[error(
        "this binary was built without nvcc, and NVRTC (libnvrtc.so.13) is not on the loader's path to compile the kernels"
    )]
    NoCompiler,
    /// NVRTC refused the source.
    #[error("NVRTC failed on {file}: {log}")]
    Compile {
        /// The kernels' file.
        file: &'static str,
        /// What it said.
        log: String,
    },
}

/// CUDA version of the embedded code. What an older driver says of newer code differs with its age,
/// so its version decides.
const VERSION: (u32, u32) = (13, 0);

/// Whether compiled kernels are in this binary.
#[must_use]
pub fn embedded() -> bool {
    !FILES.is_empty() && FILES.iter().all(|file| file.fatbin.is_some())
}

/// Where code that NVRTC made is kept: `antiphon/kernels` in `$XDG_CACHE_HOME` or `~/.cache`.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = given("XDG_CACHE_HOME").or_else(|| given("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("antiphon/kernels"))
}

/// Loads every file's kernels for a device of this compute capability. `driver`: newest CUDA
/// version that the driver serves; `cache`: where compiled code is kept, if anywhere.
///
/// # Errors
/// [`CodeError`].
pub fn modules(
    context: &Arc<CudaContext>,
    capability: (u32, u32),
    driver: (u32, u32),
    cache: Option<&Path>,
) -> Result<Vec<Arc<CudaModule>>, CodeError> {
    if capability < (8, 0) {
        return Err(CodeError::Architecture(capability));
    }
    FILES.iter().map(|file| module(context, file, capability, driver, cache)).collect()
}

fn module(
    context: &Arc<CudaContext>,
    file: &'static KernelFile,
    capability: (u32, u32),
    driver: (u32, u32),
    cache: Option<&Path>,
) -> Result<Arc<CudaModule>, CodeError> {
    let failed = |error: DriverError| {
        let message = error.to_string();
        if driver < VERSION {
            CodeError::DriverTooOld { version: driver, message }
        } else {
            CodeError::Load { file: file.name, message }
        }
    };
    if let Some(fatbin) = file.fatbin {
        match context.load_module(Ptx::from_binary(fatbin.to_vec())) {
            Ok(module) => return Ok(module),
            // An older driver may still take what an NVRTC of its own age makes.
            Err(_) if driver < VERSION && present() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    context.load_module(Ptx::from_binary(compiled(file, capability, cache)?)).map_err(failed)
}

/// Code for one file: from the cache, or made and put there.
fn compiled(file: &'static KernelFile, capability: (u32, u32), cache: Option<&Path>) -> Result<Vec<u8>, CodeError> {
    if !present() {
        return Err(CodeError::NoCompiler);
    }
    let architecture = architecture(capability);
    let kept = cache.map(|folder| folder.join(format!("{}-{architecture}-{:016x}.cubin", file.name, key(file, &architecture))));
    if let Some(image) = kept.as_ref().and_then(|path| fs::read(path).ok()).filter(|image| !image.is_empty()) {
        return Ok(image);
    }
    let image = compile(file, &architecture)?;
    // A folder that cannot be written costs the next start some seconds, no more.
    if let Some(path) = kept {
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let folder = path.parent().expect("a file lies in a folder");
        if fs::create_dir_all(folder).and_then(|()| fs::write(&part, &image)).is_ok() {
            let _ = fs::rename(&part, &path);
        }
    }
    Ok(image)
}

/// `sm_90a` and its like: with the suffix where the device has instructions of its own.
fn architecture((major, minor): (u32, u32)) -> String {
    let own = if major >= 9 { "a" } else { "" };
    format!("sm_{major}{minor}{own}")
}

/// Everything that decides what the code is.
fn key(file: &KernelFile, architecture: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (HEADERS, file.name, file.source, architecture, version()).hash(&mut hasher);
    hasher.finish()
}

fn present() -> bool {
    // SAFETY: loading a library runs its initialisers; under these names it can only be NVIDIA's
    // compiler.
    unsafe { sys::is_culib_present() }
}

fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is present; the call writes two ints, to places that outlive it.
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    (major, minor)
}

/// A program of NVRTC's, destroyed at the end.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was made by `nvrtcCreateProgram` and is destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

fn compile(file: &'static KernelFile, architecture: &str) -> Result<Vec<u8>, CodeError> {
    let text = |text: &str| CString::new(text).expect("sources and names have no zero byte");
    let failed = |log: String| CodeError::Compile { file: file.name, log };
    let (source, name) = (text(file.source), text(file.name));
    let headers: Vec<_> = HEADERS.iter().map(|(name, source)| (text(name), text(source))).collect();
    let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
    let sources: Vec<*const c_char> = headers.iter().map(|(_, source)| source.as_ptr()).collect();
    let count = i32::try_from(headers.len()).expect("a handful of headers");
    let mut program = Program(std::ptr::null_mut());
    // SAFETY: every text ends with a zero byte and outlives the call; both lists have `count`
    // entries.
    let made = unsafe {
        sys::nvrtcCreateProgram(&raw mut program.0, source.as_ptr(), name.as_ptr(), count, sources.as_ptr(), names.as_ptr())
    };
    if made != sys::nvrtcResult::NVRTC_SUCCESS {
        return Err(failed(format!("{made:?}")));
    }
    let options = [text(&format!("--gpu-architecture={architecture}")), text("--std=c++17")];
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    // SAFETY: the program is valid; there are two options.
    let done = unsafe { sys::nvrtcCompileProgram(program.0, 2, options.as_ptr()) };
    if done != sys::nvrtcResult::NVRTC_SUCCESS {
        return Err(failed(format!("{done:?}: {}", log(&program))));
    }
    let mut bytes = 0;
    // SAFETY: the program is compiled; the call writes one size.
    let sized = unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut bytes) };
    let mut image = vec![0_u8; bytes];
    // SAFETY: the image has as many bytes as the call before said that this one writes.
    let written = unsafe { sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()) };
    if sized != sys::nvrtcResult::NVRTC_SUCCESS || written != sys::nvrtcResult::NVRTC_SUCCESS {
        return Err(failed(format!("no code: {written:?}")));
    }
    Ok(image)
}

fn log(program: &Program) -> String {
    let mut bytes = 0;
    // SAFETY: the program is valid; the call writes one size.
    unsafe { sys::nvrtcGetProgramLogSize(program.0, &raw mut bytes) };
    let mut text = vec![0_u8; bytes.max(1)];
    // SAFETY: the text has as many bytes as the call before said that this one writes.
    unsafe { sys::nvrtcGetProgramLog(program.0, text.as_mut_ptr().cast()) };
    CStr::from_bytes_until_nul(&text).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[test]
    fn code_is_made_once_and_found_again() {
        let device = antiphon_cuda_shim::device();
        let context = CudaContext::new(device.ordinal()).expect("a context");
        let folder = tempfile::tempdir().expect("a folder");
        for _ in 0..2 {
            for file in FILES {
                let image = compiled(file, (9, 0), Some(folder.path())).expect("compiles");
                context.load_module(Ptx::from_binary(image)).expect("loads");
            }
            assert_eq!(entries(folder.path()), FILES.len());
        }
        for file in FILES {
            compiled(file, (8, 0), Some(folder.path())).expect("compiles");
        }
        assert_eq!(entries(folder.path()), 2 * FILES.len(), "another architecture has its own");
        let all = modules(&context, (9, 0), VERSION, Some(folder.path())).expect("loads");
        assert_eq!(all.len(), FILES.len());
    }

    #[test]
    fn an_old_device_is_refused_with_its_number() {
        let device = antiphon_cuda_shim::device();
        let context = CudaContext::new(device.ordinal()).expect("a context");
        let error = modules(&context, (7, 5), VERSION, None).expect_err("too old");
        assert!(error.to_string().contains("7.5") && error.to_string().contains("8.0"), "{error}");
    }

    #[test]
    fn a_source_that_does_not_compile_says_where() {
        let device = antiphon_cuda_shim::device();
        static BROKEN: KernelFile = KernelFile { name: "broken.cu", source: "#include \"nowhere.cuh\"\n", fatbin: None };
        let error = compile(&BROKEN, "sm_90a").expect_err("no such header").to_string();
        assert!(error.contains("broken.cu") && error.contains("nowhere.cuh"), "{error}");
        drop(device);
    }

    /// With `ANTIPHON_CUDA=nvrtc` this asks NVIDIA's own NVRTC, else the stand-in.
    #[test]
    fn nvrtc_compiles_every_file() {
        let own = std::env::var_os("ANTIPHON_CUDA").is_some_and(|value| value == "nvrtc");
        let device = (!own).then(antiphon_cuda_shim::device);
        for capability in [(8, 0), (8, 9), (9, 0), (10, 0)] {
            for file in FILES {
                let image = compiled(file, capability, None).unwrap_or_else(|error| panic!("{error}"));
                assert!(!own || image.starts_with(b"\x7fELF"), "{} is a cubin", file.name);
            }
        }
        drop(device);
    }

    #[test]
    fn the_embedded_code_is_one_fatbin_a_file() {
        for fatbin in FILES.iter().filter_map(|file| file.fatbin) {
            assert_eq!(fatbin[..4], [0x50, 0xed, 0x55, 0xba], "the magic number of a fatbin");
        }
        assert_eq!(embedded(), FILES.iter().any(|file| file.fatbin.is_some()), "all files or none");
        if option_env!("NVCC").is_some_and(|nvcc| !nvcc.is_empty()) {
            assert!(embedded() || FILES.is_empty(), "built with nvcc");
        }
    }
}
