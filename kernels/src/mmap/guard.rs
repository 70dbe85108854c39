//! Survives reading a mapped page that its file no longer has.
//!
//! The kernel answers such a read with SIGBUS, which ends the process unless it is handled. The
//! handler here puts a page of zeros in the place of the one that is gone and marks the mapping as
//! lost: the read goes on, and a check afterwards says that what was read is worth nothing. A
//! SIGBUS anywhere else goes to the handler that was there before.

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most mappings at a time; the largest released checkpoint has 15 files.
const REGIONS_MAX: usize = 1024;

/// A mapping that is guarded; `start` is zero for a free place.
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
    taken: AtomicBool,
    lost: AtomicBool,
}

static REGIONS: [Region; REGIONS_MAX] = [const {
    Region { start: AtomicUsize::new(0), end: AtomicUsize::new(0), taken: AtomicBool::new(false), lost: AtomicBool::new(false) }
}; REGIONS_MAX];

/// The size of a memory page, and the signal's handler before this one.
static BEFORE: OnceLock<(usize, libc::sigaction)> = OnceLock::new();

/// A place in the table of guarded mappings, given back when it is dropped. Drop it before the
/// mapping itself.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// Guards `bytes`, the whole of a read-only mapping.
    ///
    /// # Errors
    /// The system does not let the signal be handled, or too many mappings are guarded.
    pub(super) fn new(bytes: &[u8]) -> io::Result<Self> {
        install()?;
        let free = |region: &Region| region.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let place = REGIONS.iter().position(free).ok_or_else(|| io::Error::other("too many files are mapped"))?;
        let (region, start) = (&REGIONS[place], bytes.as_ptr() as usize);
        region.lost.store(false, Ordering::Relaxed);
        region.end.store(start + bytes.len(), Ordering::Relaxed);
        // An empty mapping has no page that could be missing.
        region.start.store(if bytes.is_empty() { 0 } else { start }, Ordering::Release);
        Ok(Self(place))
    }

    /// Whether a page of the mapping was missing when it was read.
    pub(super) fn is_lost(&self) -> bool {
        REGIONS[self.0].lost.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let region = &REGIONS[self.0];
        region.start.store(0, Ordering::Release);
        region.taken.store(false, Ordering::Release);
    }
}

/// Takes the signal, once.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: sysconf reads a constant; both structures are plain data that may be zero, and
        // the handler has the signature that SA_SIGINFO asks for. It runs on the alternate stack
        // that Rust gives its threads.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE);
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
                return Err(last_error());
            }
            // Known before the first signal can come.
            BEFORE.get_or_init(|| (usize::try_from(page).unwrap_or(4096), before));
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
                return Err(last_error());
            }
        }
        Ok(())
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn last_error() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Only atomics and system calls in here: it runs wherever a thread happened to be.
extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let Some((page, before)) = BEFORE.get() else { return };
    // SAFETY: the kernel passes a filled structure to a handler with SA_SIGINFO, and for SIGBUS it
    // holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let holds = |region: &&Region| {
        let start = region.start.load(Ordering::Acquire);
        start != 0 && (start..region.end.load(Ordering::Relaxed)).contains(&address)
    };
    if let Some(region) = REGIONS.iter().find(holds) {
        let at = (address & !(page - 1)) as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in a mapping that `Guard` was told of and that is still there, is
        // only ever read, and is missing: nothing valid is replaced.
        let placed = unsafe { libc::mmap(at, *page, libc::PROT_READ, flags, -1, 0) };
        if placed == at {
            region.lost.store(true, Ordering::Release);
            return;
        }
    }
    // Not ours: the read is tried again, and the signal goes to the handler before this one.
    // SAFETY: `before` is what the system itself gave us.
    unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
}
