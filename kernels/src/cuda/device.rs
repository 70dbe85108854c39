//! One CUDA device: its context, its streams, its kernels, and copies.
//!
//! Promises: work of one stream runs in the order in which it was given; nothing is allocated after
//! the device is open but by [`super::Arena`] and [`super::Pinned`]. Event tracking is off: with
//! two streams cudarc would add 18 driver calls to a launch.

use super::kernels::{SHARED_BYTES_PLAIN, kernels_of};
use super::memory::{Element, Pinned, Region};
use super::{Cuda, CudaDevice, CudaError, NoCuda, code, probe};
use cudarc::driver::sys::{self, CUfunction_attribute_enum, CUstreamCaptureMode_enum};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaStream, result};
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A device that is ready to compute.
pub struct Device {
    context: Arc<CudaContext>,
    compute: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    kernels: HashMap<&'static str, CudaFunction>,
    facts: CudaDevice,
    is_capturing: AtomicBool,
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Device").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Where a copy is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// With the kernels.
    Compute,
    /// Beside them.
    Copies,
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    Address(u64),
    Int(i32),
    Real(f32),
    Map(sys::CUtensorMap),
}

impl<T: Element> From<&Region<T>> for Arg {
    fn from(region: &Region<T>) -> Self {
        Self::Address(region.address())
    }
}

impl<T: Element> From<Option<&Region<T>>> for Arg {
    fn from(region: Option<&Region<T>>) -> Self {
        Self::Address(region.map_or(0, Region::address))
    }
}

impl From<usize> for Arg {
    fn from(count: usize) -> Self {
        Self::Int(i32::try_from(count).expect("no count of a step or a shape comes near 2^31"))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Real(value)
    }
}

/// Arguments of a kernel at most; their addresses stand on the stack, so that a launch allocates
/// nothing.
const ARGS_MAX: usize = 24;

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: (usize, usize),
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
}

impl Device {
    /// Opens device `ordinal` and loads every kernel that it can run.
    ///
    /// # Errors
    /// [`CudaError::None`] if there is no such device, [`CudaError::Driver`] if its kernels do not
    /// load.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let Cuda { driver_version, devices } = probe()?;
        let count = devices.len();
        let facts = devices.into_iter().nth(ordinal).ok_or(NoCuda::NoSuchDevice { ordinal, count })?;
        let context = CudaContext::new(ordinal).map_err(CudaError::driver("making a context"))?;
        // SAFETY: nothing is allocated yet; the two streams are ordered by `join` where one needs
        // the other.
        unsafe { context.disable_event_tracking() };
        let stream = || context.new_stream().map_err(CudaError::driver("making a stream"));
        let (compute, copies) = (stream()?, stream()?);
        let modules = code::modules(&context, facts.compute_capability, driver_version, code::cache_folder().as_deref())?;
        let mut kernels = HashMap::new();
        for (name, shared_bytes) in kernels_of(&facts) {
            let found = modules.iter().find_map(|module| module.load_function(name).ok());
            let missing = || CudaError::Driver {
                call: "looking up a kernel",
                message: format!("`{name}` is not in the loaded modules"),
                is_sticky: false,
            };
            let function = found.ok_or_else(missing)?;
            // The driver loads code when it is first asked about it; a capture must not be the
            // first to ask.
            let registers = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NUM_REGS;
            function.get_attribute(registers).map_err(CudaError::driver("loading a kernel"))?;
            if shared_bytes > SHARED_BYTES_PLAIN {
                let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let bytes = i32::try_from(shared_bytes).expect("a block has less than 256 KiB");
                function.set_attribute(attribute, bytes).map_err(CudaError::driver("asking for shared memory"))?;
            }
            kernels.insert(name, function);
        }
        Ok(Self { context, compute, copies, kernels, facts, is_capturing: AtomicBool::new(false) })
    }

    /// What the device is.
    #[must_use]
    pub fn facts(&self) -> &CudaDevice {
        &self.facts
    }

    /// Free and total bytes of its memory.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.mem_get_info().map_err(CudaError::driver("asking for free memory"))
    }

    /// Makes this thread the one that works with the device.
    ///
    /// # Errors
    /// [`CudaError::Driver`], among others what an earlier call has left.
    pub fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(CudaError::driver("binding to a thread"))
    }

    /// Waits until all work is done that was queued with the kernels.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if any of it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.compute.synchronize().map_err(CudaError::driver("waiting for kernels"))
    }

    /// Waits until all copies beside the kernels are done.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if any of them failed.
    pub fn synchronize_copies(&self) -> Result<(), CudaError> {
        self.copies.synchronize().map_err(CudaError::driver("waiting for copies"))
    }

    /// A place in the order of work, to be marked with [`Device::mark`].
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn event(&self) -> Result<Event, CudaError> {
        self.context.new_event(None).map(Event).map_err(CudaError::driver("making an event"))
    }

    /// Lets `event` be what was queued with the kernels until now.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn mark(&self, event: &Event) -> Result<(), CudaError> {
        event.0.record(&self.compute).map_err(CudaError::driver("recording an event"))
    }

    /// Queues a copy of the first `len` elements of `from` into `to`. To change or drop `from` is
    /// to wait for it.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Panics
    /// If either is shorter, `from` is another device's, or work is being captured.
    pub fn upload<T: Element>(&self, queue: Queue, from: &Pinned<T>, to: &Region<T>, len: usize) -> Result<(), CudaError> {
        assert!(len <= from.len() && len <= to.len(), "{len} elements of {} into {}", from.len(), to.len());
        self.check_copy(from);
        if len == 0 {
            return Ok(());
        }
        let (stream, bytes) = (self.stream(queue), len * size_of::<T>());
        // SAFETY: both sides have `len` elements, and `from` keeps the host from changing them.
        let copy = |source: *mut T| unsafe { sys::cuMemcpyHtoDAsync_v2(to.address(), source.cast(), bytes, stream) }.result();
        // SAFETY: the copy reads so many elements, on this stream of the same context.
        unsafe { from.queue_copy(queue, stream, false, copy) }.map_err(CudaError::driver("copying to the device"))
    }

    /// Queues a copy of `from` into the front of `to`, with the kernels. To look at `to` is to wait
    /// for it.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Panics
    /// If `to` is shorter or another device's, or work is being captured.
    pub fn download<T: Element>(&self, from: &Region<T>, to: &mut Pinned<T>) -> Result<(), CudaError> {
        assert!(from.len() <= to.len(), "{} elements into {}", from.len(), to.len());
        self.check_copy(to);
        if from.is_empty() {
            return Ok(());
        }
        let (stream, bytes) = (self.stream(Queue::Compute), from.len() * size_of::<T>());
        // SAFETY: both sides have as many elements, and `to` keeps the host from them until they
        // are there.
        let copy = |target: *mut T| unsafe { sys::cuMemcpyDtoHAsync_v2(target.cast(), from.address(), bytes, stream) }.result();
        // SAFETY: the copy writes so many elements, on this stream of the same context; `to` is
        // borrowed alone.
        unsafe { to.queue_copy(Queue::Compute, stream, true, copy) }.map_err(CudaError::driver("copying from the device"))
    }

    /// A copy that is captured runs when its graph is replayed, which pinned memory would not learn
    /// of.
    fn check_copy<T>(&self, pinned: &Pinned<T>) {
        assert!(pinned.is_of(&self.context), "pinned memory of another device");
        assert!(!self.is_capturing.load(Ordering::Relaxed), "a copy of pinned memory cannot be captured");
    }

    /// Queues a copy of `from` into the front of `to`, both on the device, with the kernels.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Panics
    /// If `to` is shorter.
    pub fn copy<T: Element>(&self, from: &Region<T>, to: &Region<T>) -> Result<(), CudaError> {
        assert!(from.len() <= to.len(), "{} elements into {}", from.len(), to.len());
        let stream = self.stream(Queue::Compute);
        // SAFETY: both sides have as many bytes.
        unsafe { result::memcpy_dtod_async(to.address(), from.address(), from.len() * size_of::<T>(), stream) }
            .map_err(CudaError::driver("copying on the device"))
    }

    /// Queues a copy of the front of each of `rows` rows of `from` into `columns` of a row of `to`,
    /// both on the device, with the kernels.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Panics
    /// If either has not so many rows, or a row not so many values.
    pub fn copy_columns(
        &self,
        from: &Region<f32>,
        from_width: usize,
        to: &Region<f32>,
        to_width: usize,
        columns: Range<usize>,
        rows: usize,
    ) -> Result<(), CudaError> {
        assert!(from.len() >= rows * from_width && to.len() >= rows * to_width, "{rows} rows of {from_width} and {to_width}");
        assert!(columns.len() <= from_width && columns.end <= to_width, "{columns:?} of {from_width} and {to_width}");
        if columns.is_empty() || rows == 0 {
            return Ok(());
        }
        let bytes = |values: usize| values * size_of::<f32>();
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: from.address(),
            srcArray: std::ptr::null_mut(),
            srcPitch: bytes(from_width),
            dstXInBytes: bytes(columns.start),
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: to.address(),
            dstArray: std::ptr::null_mut(),
            dstPitch: bytes(to_width),
            WidthInBytes: bytes(columns.len()),
            Height: rows,
        };
        // SAFETY: what is read and written lies within the regions, as checked above; the driver
        // takes the description before it returns.
        unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, self.stream(Queue::Compute)) }
            .result()
            .map_err(CudaError::driver("copying columns"))
    }

    /// Copies `values` to the device and waits.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Panics
    /// If `to` is shorter.
    pub fn store<T: Element>(&self, values: &[T], to: &Region<T>) -> Result<(), CudaError> {
        let mut pinned = Pinned::new(self, values.len())?;
        pinned.as_mut_slice().copy_from_slice(values);
        self.upload(Queue::Compute, &pinned, to, values.len())?;
        self.synchronize()
    }

    /// Copies a region to the host and waits.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn fetch<T: Element>(&self, from: &Region<T>) -> Result<Vec<T>, CudaError> {
        let mut pinned = Pinned::new(self, from.len())?;
        self.download(from, &mut pinned)?;
        self.synchronize()?;
        Ok(pinned.as_slice().to_vec())
    }

    /// Records what `work` queues with the kernels instead of running it.
    ///
    /// # Errors
    /// [`CudaError`] of `work`, or of the driver.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        const CALL: &str = "capturing a graph";
        let mode = CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.compute.begin_capture(mode).map_err(CudaError::driver(CALL))?;
        self.is_capturing.store(true, Ordering::Relaxed);
        let worked = work();
        self.is_capturing.store(false, Ordering::Relaxed);
        // The capture must be ended whatever came of it.
        let flags = sys::CUgraphInstantiate_flags_enum(0);
        let graph = self.compute.end_capture(flags).map_err(CudaError::driver(CALL));
        worked?;
        let graph = graph?.expect("a stream that was capturing has a graph");
        Ok(Graph(graph))
    }

    pub(super) fn ordinal(&self) -> i32 {
        i32::try_from(self.context.ordinal()).expect("a machine has a handful of devices")
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub(super) fn compute_stream(&self) -> sys::CUstream {
        self.compute.cu_stream()
    }

    fn stream(&self, queue: Queue) -> sys::CUstream {
        match queue {
            Queue::Compute => self.compute.cu_stream(),
            Queue::Copies => self.copies.cu_stream(),
        }
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `args` are the kernel's parameters in number, order and kind, and what it reads and writes
    /// lies within their regions.
    pub(super) unsafe fn launch(&self, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), CudaError> {
        let dimension = |count: usize| u32::try_from(count).expect("no grid comes near 2^32 blocks");
        let mut pointers = [std::ptr::null_mut(); ARGS_MAX];
        assert!(args.len() <= ARGS_MAX, "`{name}` takes {} arguments; a launch passes at most {ARGS_MAX}", args.len());
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = match arg {
                Arg::Address(address) => std::ptr::from_ref(address).cast_mut().cast::<c_void>(),
                Arg::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Real(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Map(map) => std::ptr::from_ref(map).cast_mut().cast(),
            };
        }
        let blocks = (dimension(grid.blocks.0), dimension(grid.blocks.1), 1);
        let threads = (dimension(grid.threads), 1, 1);
        let function = self.kernels[name].cu_function();
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        unsafe {
            result::launch_kernel(
                function,
                blocks,
                threads,
                dimension(grid.shared_bytes),
                self.compute.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(CudaError::driver("launching a kernel"))
    }
}

/// A place in the order of what was queued with the kernels.
#[derive(Debug)]
pub struct Event(CudaEvent);

impl Event {
    /// Waits until all work before it is done; what was queued later may still be under way.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if any of it failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.0.synchronize().map_err(CudaError::driver("waiting for kernels"))
    }
}

/// Work that was recorded once and is replayed with one call.
pub struct Graph(CudaGraph);

// SAFETY: CUDA asks that one graph is not used by two threads at once; an owner that moves takes it
// along.
unsafe impl Send for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Graph")
    }
}

impl Graph {
    /// Queues the work, with the kernels.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn launch(&self) -> Result<(), CudaError> {
        self.0.launch().map_err(CudaError::driver("launching a graph"))
    }
}
