//! Device memory in regions, and pinned host memory that the device copies from and to.
//!
//! Promises: a region lies within one allocation, which lives as long as any of its regions;
//! nothing is allocated or freed between. Memory of the device is never seen as a Rust reference,
//! so that two regions may overlap. Pinned memory is never touched by the host while a copy needs
//! it as it is.

use super::device::{Device, Queue};
use super::error::CudaError;
use cudarc::driver::{CudaContext, CudaEvent, DriverError, result, sys};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where regions begin: a multiple of this many bytes, for the widest load and for whole lines of
/// memory.
const ALIGNMENT_BYTES: usize = 256;

/// What device memory may hold: plain numbers of which every pattern of bits is one.
pub trait Element: Copy + Default + Send + Sync + 'static + sealed::Plain {}

pub(super) mod sealed {
    /// Any bits are a value, without padding.
    ///
    /// # Safety
    /// As it says.
    pub unsafe trait Plain {}
}

macro_rules! element {
    ($($type:ty),*) => {$(
        // SAFETY: a number, or numbers of four bytes side by side.
        unsafe impl $crate::cuda::memory::sealed::Plain for $type {}
        impl $crate::cuda::memory::Element for $type {}
    )*};
}
pub(super) use element;
element!(u8, u32, i32, f32, bf16, f16);

/// One allocation of device memory.
#[derive(Debug)]
struct Allocation {
    context: Arc<CudaContext>,
    address: u64,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // After a sticky error freeing fails too; the memory goes with the process.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `address` came from `malloc_sync` and is freed once; the device is done with
            // it, as every launch that names it was waited for or belongs to a stream that is
            // dropped after its work.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Device memory that is handed out in regions, from front to back.
#[derive(Debug)]
pub struct Arena {
    allocation: Arc<Allocation>,
    size_bytes: usize,
    used_bytes: usize,
}

/// Bytes that a region of `len` elements takes in an [`Arena`].
#[must_use]
pub const fn region_bytes<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(ALIGNMENT_BYTES)
}

impl Arena {
    /// Takes `bytes` of the device's memory, zeros; `what` names them in an error.
    ///
    /// # Errors
    /// [`CudaError::Memory`] if the device has not so much, else [`CudaError::Driver`].
    pub fn new(device: &Device, what: &'static str, bytes: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let size_bytes = bytes.max(ALIGNMENT_BYTES);
        let (free_bytes, _) = device.memory()?;
        if size_bytes > free_bytes {
            return Err(CudaError::Memory { what, bytes: size_bytes, free_bytes });
        }
        // SAFETY: a context is bound to this thread.
        let address = unsafe { result::malloc_sync(size_bytes) }.map_err(|_| CudaError::Memory {
            what,
            bytes: size_bytes,
            free_bytes,
        })?;
        let allocation = Arc::new(Allocation { context: Arc::clone(device.context()), address });
        // SAFETY: the whole allocation, which is live.
        unsafe { result::memset_d8_async(address, 0, size_bytes, device.compute_stream()) }
            .map_err(CudaError::driver("clearing memory"))?;
        device.synchronize()?;
        Ok(Self { allocation, size_bytes, used_bytes: 0 })
    }

    /// The next region, of `len` elements.
    ///
    /// # Panics
    /// If the arena is too small: its size is planned from the same numbers.
    pub fn take<T: Element>(&mut self, len: usize) -> Region<T> {
        let (begin, bytes) = (self.used_bytes, region_bytes::<T>(len));
        assert!(begin + bytes <= self.size_bytes, "{bytes} bytes of an arena with {begin} of {} taken", self.size_bytes);
        self.used_bytes += bytes;
        let address = self.allocation.address + begin as u64;
        Region { allocation: Arc::clone(&self.allocation), address, len, element: PhantomData }
    }

    /// Bytes that no region has.
    #[must_use]
    pub fn left_bytes(&self) -> usize {
        self.size_bytes - self.used_bytes
    }
}

/// Elements side by side in device memory.
#[derive(Debug)]
pub struct Region<T> {
    allocation: Arc<Allocation>,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Clone for Region<T> {
    fn clone(&self) -> Self {
        Self { allocation: Arc::clone(&self.allocation), element: PhantomData, ..*self }
    }
}

impl<T: Element> Region<T> {
    /// How many elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it.
    ///
    /// # Panics
    /// If it has no such part.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        let address = self.address + (range.start * size_of::<T>()) as u64;
        Self { allocation: Arc::clone(&self.allocation), address, len: range.len(), element: PhantomData }
    }

    /// `len` elements of another type where element `start` of this one lies.
    ///
    /// # Panics
    /// If they do not lie within it, or not at a multiple of four bytes.
    #[must_use]
    pub fn view<U: Element>(&self, start: usize, len: usize) -> Region<U> {
        let (begin, bytes) = (start * size_of::<T>(), len * size_of::<U>());
        assert!(
            begin.is_multiple_of(4) && begin + bytes <= self.len * size_of::<T>(),
            "{bytes} bytes at {begin} of {}",
            self.len
        );
        let address = self.address + begin as u64;
        Region { allocation: Arc::clone(&self.allocation), address, len, element: PhantomData }
    }

    /// Its address on the device.
    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

/// Host memory that the device reads and writes by itself. Not write-combined: the host reads it
/// too.
///
/// Remembers where its last copy ends, and waits for it before the host touches what the copy reads
/// or writes.
#[derive(Debug)]
pub struct Pinned<T> {
    context: Arc<CudaContext>,
    pointer: *mut T,
    len: usize,
    /// Recorded behind the last copy.
    copied: CudaEvent,
    under_way: Mutex<Option<Copying>>,
}

/// Copies of a [`Pinned`] that may not be done.
#[derive(Debug, Clone, Copy)]
struct Copying {
    queue: Queue,
    /// Whether one of them writes to the host.
    writes_host: bool,
}

// SAFETY: it owns its memory alone, as a Vec does.
unsafe impl<T: Element> Send for Pinned<T> {}
// SAFETY: a shared reference only reads, once no copy writes.
unsafe impl<T: Element> Sync for Pinned<T> {}

impl<T: Element> Pinned<T> {
    /// Memory for `len` elements, zeros.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the system gives none.
    pub fn new(device: &Device, len: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let copied = device.context().new_event(None).map_err(CudaError::driver("making an event"))?;
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: a context is bound; flags zero is plain cached memory.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(CudaError::driver("taking pinned memory"))?;
        // SAFETY: `bytes` of it were just given.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        let context = Arc::clone(device.context());
        Ok(Self { context, pointer: pointer.cast(), len, copied, under_way: Mutex::new(None) })
    }

    /// How many elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The elements. Waits for a copy into them; if that fails, they hold anything, and what waits
    /// for the queue says why.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        self.wait(|copying| copying.writes_host);
        // SAFETY: `len` elements are ours and were written with zeros at least; cuMemHostAlloc
        // aligns to pages; no copy writes to them, and the next one that does needs `self` alone.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }

    /// The elements. Waits for copies from and into them, as [`Pinned::as_slice`] does.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.wait(|_| true);
        // SAFETY: as above, no copy reads them, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }

    /// Queues a copy that begins at the first element, by `copy`, and remembers where it ends.
    ///
    /// One event stands for the end of one queue, so copies of the other are waited for first.
    ///
    /// # Safety
    /// `stream` is `queue`'s and of this context, and `copy` queues there what reads, or with
    /// `writes_host` writes, at most `len` elements. With `writes_host` the caller has `self`
    /// alone.
    pub(super) unsafe fn queue_copy(
        &self,
        queue: Queue,
        stream: sys::CUstream,
        writes_host: bool,
        copy: impl FnOnce(*mut T) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        // One lock for both: another thread's copy in between would be forgotten.
        let mut under_way = self.lock();
        self.settle(&mut under_way, |copying| copying.queue != queue);
        let queued = copy(self.pointer);
        // SAFETY: both are live, and of one context.
        let marked = queued.and_then(|()| unsafe { result::event::record(self.copied.cu_event(), stream) });
        match marked {
            Ok(()) => {
                let writes_host = writes_host || under_way.is_some_and(|copying| copying.writes_host);
                *under_way = Some(Copying { queue, writes_host });
            }
            // Nothing marks the copy's end, if it was queued at all.
            // SAFETY: the stream is live.
            Err(_) => _ = unsafe { result::stream::synchronize(stream) },
        }
        marked
    }
}

impl<T> Pinned<T> {
    /// Whether it was made for a device of this context.
    pub(super) fn is_of(&self, context: &CudaContext) -> bool {
        self.context.cu_ctx() == context.cu_ctx()
    }

    /// Waits for copies under way, if `matters` says so of them.
    ///
    /// A failure is not reported here: it belongs to the work of the queue, and ends the copies as
    /// well as success does.
    fn wait(&self, matters: impl FnOnce(Copying) -> bool) {
        self.settle(&mut self.lock(), matters);
    }

    fn settle(&self, under_way: &mut Option<Copying>, matters: impl FnOnce(Copying) -> bool) {
        if under_way.is_some_and(matters) {
            // SAFETY: the event is live.
            let _ = unsafe { result::event::synchronize(self.copied.cu_event()) };
            *under_way = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Copying>> {
        // A panic under the lock leaves nothing half changed.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.wait(|_| true);
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it came from `malloc_host` and is freed once; no copy reads or writes it.
            let _ = unsafe { result::free_host(self.pointer.cast()) };
        }
    }
}
