//! The stand-in as the driver of another process: what a program meets that is started as a user
//! starts it.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Puts `libcuda.so`, `libnvrtc.so` and `libnccl.so.2` into `folder` and returns the environment in
/// which a process finds them there. `settings` are lines of `cpp/environment.cpp`, such as
/// `memory_bytes=1048576`. The file `fault` in the folder, once it says `lost` or `refused`, makes
/// the next launch fail; with `hangs` it never returns.
///
/// # Panics
/// Without a C++ compiler, with a sentence that says so, or if the folder cannot be written.
#[must_use]
pub fn stand_in(folder: &Path, settings: &str) -> [(&'static str, OsString); 2] {
    assert!(env!("SHIM_MISSING").is_empty(), "{}", env!("SHIM_MISSING"));
    let libraries =
        [(env!("SHIM_DRIVER"), "libcuda.so"), (env!("SHIM_NVRTC"), "libnvrtc.so"), (env!("SHIM_NCCL"), "libnccl.so.2")];
    for (file, name) in libraries {
        symlink(file, folder.join(name)).unwrap_or_else(|error| panic!("{name} in {}: {error}", folder.display()));
    }
    let fault = folder.join("fault");
    let (plain, checked) = (env!("SHIM_PLAIN"), env!("SHIM_CHECKED"));
    let text = format!("kernels={plain}\nchecked={checked}\nfault={}\n{settings}", fault.display());
    [("LD_LIBRARY_PATH", folder.into()), ("ANTIPHON_SHIM", text.into())]
}
