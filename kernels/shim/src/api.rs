//! The stand-in driver's own calls, bound once.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The calls, all of them by a device's ordinal.
pub(crate) struct Api {
    pub(crate) devices: extern "C" fn() -> c_int,
    pub(crate) reset: extern "C" fn(c_int),
    pub(crate) set_schedule: extern "C" fn(c_int, c_int, c_uint, c_int),
    pub(crate) set_check: extern "C" fn(c_int, c_int),
    pub(crate) set_memory: extern "C" fn(c_int, usize),
    pub(crate) set_multiprocessors: extern "C" fn(c_int, c_int),
    pub(crate) set_capability: extern "C" fn(c_int, c_int, c_int),
    pub(crate) plant: extern "C" fn(c_int, *const c_char),
    pub(crate) races: extern "C" fn(c_int) -> c_int,
    pub(crate) calls: extern "C" fn(c_int) -> c_long,
    pub(crate) launches: extern "C" fn(c_int) -> c_long,
    pub(crate) launches_of: extern "C" fn(c_int, *const c_char) -> c_long,
    pub(crate) memory_used: extern "C" fn(c_int) -> usize,
    pub(crate) fail_launch: extern "C" fn(c_int, c_int, c_int),
    pub(crate) fail_allocation: extern "C" fn(c_int, c_int),
    pub(crate) message: extern "C" fn(c_int, *mut c_char, usize) -> usize,
    /// The drivers stay loaded as long as the process.
    _held: [Library; 3],
    load_kernels: extern "C" fn(*const c_char, *const c_char, c_int) -> *const c_char,
}

impl Api {
    /// Loads the kernels of `path` for modules whose image names `image`.
    pub(crate) fn load(&self, path: &str, image: &str, checked: bool) {
        let path = CString::new(path).expect("a path has no zero byte");
        let image = CString::new(image).expect("an image's name has no zero byte");
        let error = (self.load_kernels)(path.as_ptr(), image.as_ptr(), c_int::from(checked));
        if !error.is_null() {
            // SAFETY: the shim returns null or a text that lives until this thread's next call.
            let error = unsafe { CStr::from_ptr(error) };
            panic!("{path:?}: {}", error.to_string_lossy());
        }
    }
}

/// Loads the stand-ins on the first call. Must come before anything asks cudarc for a driver.
pub(crate) fn api() -> &'static Api {
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| {
        assert!(env!("SHIM_MISSING").is_empty(), "{}", env!("SHIM_MISSING"));
        let api = bind([env!("SHIM_DRIVER"), env!("SHIM_NVRTC"), env!("SHIM_NCCL")].map(open));
        api.load(env!("SHIM_PLAIN"), "", false);
        api.load(env!("SHIM_CHECKED"), "", true);
        api
    })
}

fn open(path: &str) -> Library {
    // SAFETY: the library is this crate's own; its initialisers register nothing but itself.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn bind(held: [Library; 3]) -> Api {
    macro_rules! symbol {
        ($name:literal) => {
            // SAFETY: the symbol is defined in driver_device.cpp or driver_launch.cpp with the type of the
            // field it goes to.
            *unsafe { held[0].get($name) }.unwrap_or_else(|error| panic!("the shim lacks a call: {error}"))
        };
    }
    Api {
        devices: symbol!(b"shim_device_count"),
        reset: symbol!(b"shim_reset"),
        set_schedule: symbol!(b"shim_set_schedule"),
        set_check: symbol!(b"shim_set_check"),
        set_memory: symbol!(b"shim_set_memory"),
        set_multiprocessors: symbol!(b"shim_set_multiprocessors"),
        set_capability: symbol!(b"shim_set_capability"),
        plant: symbol!(b"shim_plant"),
        races: symbol!(b"shim_races"),
        calls: symbol!(b"shim_calls"),
        launches: symbol!(b"shim_launches"),
        launches_of: symbol!(b"shim_launches_of"),
        memory_used: symbol!(b"shim_memory_used"),
        fail_launch: symbol!(b"shim_fail_launch"),
        fail_allocation: symbol!(b"shim_fail_allocation"),
        message: symbol!(b"shim_message"),
        load_kernels: symbol!(b"shim_load_kernels"),
        _held: held,
    }
}
