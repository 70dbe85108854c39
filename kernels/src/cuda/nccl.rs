//! Collective operations between devices, through NCCL.
//!
//! Owns: the library, found at run time, and the communicators. Promises: where NCCL is missing,
//! nothing panics and the error says which names were tried; [`Communicator::abort`] frees a rank
//! that waits in a collective. The declarations are cudarc's, the loading is not: cudarc asks for
//! `libnccl.so` and names with a CUDA version, never for `libnccl.so.2`, which is what packages and
//! wheels install, and panics when it finds none.

use super::device::Device;
use super::error::CudaError;
use super::memory::Region;
use cudarc::nccl::sys;
use libloading::{Library, Symbol};
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What NCCL may be called, in the order in which the names are tried.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// A result of NCCL. Not cudarc's enum: a newer NCCL may return a number that it has no name for.
type Code = u32;
const SUCCESS: Code = 0;

/// NCCL's calls.
struct Nccl {
    version: unsafe extern "C" fn(*mut c_int) -> Code,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    init_all: unsafe extern "C" fn(*mut sys::ncclComm_t, c_int, *const c_int) -> Code,
    all_gather: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        sys::ncclDataType_t,
        sys::ncclComm_t,
        sys::cudaStream_t,
    ) -> Code,
    abort: unsafe extern "C" fn(sys::ncclComm_t) -> Code,
    destroy: unsafe extern "C" fn(sys::ncclComm_t) -> Code,
    /// The calls are the library's, which stays loaded as long as the process.
    _library: Library,
}

impl Nccl {
    fn load() -> Result<&'static Self, CudaError> {
        static NCCL: OnceLock<Result<Nccl, CudaError>> = OnceLock::new();
        NCCL.get_or_init(|| Self::open(&NAMES)).as_ref().map_err(Clone::clone)
    }

    /// The first of these libraries that is there.
    fn open(names: &[&str]) -> Result<Self, CudaError> {
        let mut tried = Vec::new();
        for name in names {
            // SAFETY: under these names it can only be NCCL, whose initialisers register nothing
            // but itself.
            match unsafe { Library::new(*name) } {
                Ok(library) => return Self::bind(library).map_err(|message| CudaError::Nccl { call: "loading it", message }),
                Err(error) => tried.push(format!("{name} ({})", told(&error))),
            }
        }
        Err(CudaError::NoNccl { tried: tried.join(", ") })
    }

    fn bind(library: Library) -> Result<Self, String> {
        macro_rules! symbol {
            ($name:literal) => {{
                // SAFETY: NCCL declares the symbol with the type of the field that it goes to
                // (nccl.h; the same since 2.4).
                let symbol: Result<Symbol<'_, _>, _> = unsafe { library.get($name) };
                *symbol.map_err(|error| told(&error))?
            }};
        }
        Ok(Self {
            version: symbol!("ncclGetVersion"),
            error_string: symbol!("ncclGetErrorString"),
            init_all: symbol!("ncclCommInitAll"),
            all_gather: symbol!("ncclAllGather"),
            abort: symbol!("ncclCommAbort"),
            destroy: symbol!("ncclCommDestroy"),
            _library: library,
        })
    }

    fn check(&self, call: &'static str, code: Code) -> Result<(), CudaError> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: NCCL has a text for every number, which lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy();
        Err(CudaError::Nccl { call, message: format!("{text}; NCCL_DEBUG=WARN makes it say more") })
    }
}

/// What the loader said.
fn told(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The version of the NCCL that is installed, as `2.28.3`.
///
/// # Errors
/// [`CudaError::NoNccl`] if there is none.
pub fn nccl_version() -> Result<String, CudaError> {
    let nccl = Nccl::load()?;
    let mut version = 0;
    // SAFETY: it writes one int, to a place that outlives the call.
    nccl.check("asking for its version", unsafe { (nccl.version)(&raw mut version) })?;
    Ok(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// A communicator of NCCL.
struct Handle(sys::ncclComm_t);

// SAFETY: NCCL binds a communicator to a device, not to a thread; the mutex around it lets one call
// in at a time.
unsafe impl Send for Handle {}

/// One device's end of a group whose devices compute together.
pub struct Communicator {
    nccl: &'static Nccl,
    handle: Mutex<Option<Handle>>,
    rank: usize,
    ranks: usize,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Communicator").field("rank", &self.rank).field("ranks", &self.ranks).finish_non_exhaustive()
    }
}

impl Communicator {
    /// Connects devices; the communicator of the `i`-th device has rank `i`.
    ///
    /// # Errors
    /// [`CudaError::NoNccl`], or [`CudaError::Nccl`] if they cannot be connected.
    pub fn connect(devices: &[&Device]) -> Result<Vec<Self>, CudaError> {
        let nccl = Nccl::load()?;
        let ordinals: Vec<c_int> = devices.iter().map(|device| device.ordinal()).collect();
        let mut handles = vec![std::ptr::null_mut(); ordinals.len()];
        let count = c_int::try_from(ordinals.len()).expect("a machine has a handful of devices");
        // SAFETY: both lists have `count` entries and outlive the call.
        let code = unsafe { (nccl.init_all)(handles.as_mut_ptr(), count, ordinals.as_ptr()) };
        nccl.check("connecting the devices", code)?;
        let ranks = handles.len();
        let own = |(rank, handle)| Self { nccl, handle: Mutex::new(Some(Handle(handle))), rank, ranks };
        Ok(handles.into_iter().enumerate().map(own).collect())
    }

    /// This device's place among those that compute together.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many they are.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Queues with the kernels: `parts` is cut into one part a rank; every rank's own part is
    /// copied to all others. A rank waits, on its device, until all ranks do the same.
    ///
    /// # Errors
    /// [`CudaError::Nccl`] if NCCL refuses, or the group was aborted.
    ///
    /// # Panics
    /// If there are no equal parts.
    pub fn all_gather(&self, device: &Device, parts: &Region<f32>) -> Result<(), CudaError> {
        const CALL: &str = "gathering";
        assert!(parts.len().is_multiple_of(self.ranks), "{} values in {} parts", parts.len(), self.ranks);
        let count = parts.len() / self.ranks;
        let own = parts.slice(self.rank * count..(self.rank + 1) * count);
        let handle = self.lock();
        let Some(handle) = handle.as_ref() else {
            return Err(CudaError::Nccl { call: CALL, message: "the group was aborted when another rank failed".to_owned() });
        };
        let (from, to) = (own.address() as *const c_void, parts.address() as *mut c_void);
        let stream = device.compute_stream().cast();
        // SAFETY: `count` values lie at `from` and `count` a rank at `to`, where this rank's part
        // is `from`: NCCL's form of working in place. The stream is of the communicator's device,
        // to which the caller has bound the thread.
        let code = unsafe { (self.nccl.all_gather)(from, to, count, sys::ncclDataType_t::ncclFloat32, handle.0, stream) };
        self.nccl.check(CALL, code)
    }

    /// Ends every collective under way on this rank, so that a thread that waits for its device
    /// goes on; later ones are refused. Every rank must do it, each from a thread of its own.
    /// Waits until the graphs that captured collectives are dropped.
    pub fn abort(&self) {
        let Some(handle) = self.lock().take() else { return };
        // SAFETY: it is a communicator, and was taken from its lock. What it returns changes
        // nothing.
        let _ = unsafe { (self.nccl.abort)(handle.0) };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let Some(handle) = self.lock().take() else { return };
        // SAFETY: as in `abort`; no collective is under way, as the last reference goes.
        let _ = unsafe { (self.nccl.destroy)(handle.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_what_was_tried_and_how_to_get_it() {
        let error = Nccl::open(&["libnccl-none.so.2", "libnccl-none.so"]).err().unwrap().to_string();
        for part in ["libnccl-none.so.2", "libnccl-none.so ", "libnccl2", "nvidia-nccl-cu13", "LD_LIBRARY_PATH"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_library_that_is_another_is_refused() {
        let error = Nccl::open(&["libc.so.6"]).err().unwrap().to_string();
        assert!(error.starts_with("NCCL failed in loading it:") && error.contains("ncclGetVersion"), "{error}");
    }
}
