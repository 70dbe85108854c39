//! One CUDA device: its context, its streams, its loaded kernels, and graphs of them.
//!
//! Promises: work of one stream runs in the order in which it was given; nothing is allocated after
//! the device is open but by [`super::Arena`] and [`super::Pinned`]. Event tracking is off: with
//! two streams cudarc would add 18 driver calls to a launch. Absent: which kernels there are,
//! memory, copies and launches.

use super::code;
use super::error::CudaError;
use super::probe::{Cuda, CudaDevice, NoCuda, probe};
use cudarc::driver::sys::{self, CUfunction_attribute_enum, CUstreamCaptureMode_enum};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaStream};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared memory that a block may have without asking.
pub(super) const SHARED_BYTES_PLAIN: usize = 48 << 10;

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

impl Device {
    /// Opens device `ordinal` and loads `kernels_of` it: names, each with the most dynamic shared
    /// memory of a block, in bytes.
    ///
    /// # Errors
    /// [`CudaError::None`] if there is no such device, [`CudaError::Driver`] if its kernels do not
    /// load.
    pub(super) fn with_kernels<Kernels>(
        ordinal: usize,
        kernels_of: impl FnOnce(&CudaDevice) -> Kernels,
    ) -> Result<Self, CudaError>
    where
        Kernels: Iterator<Item = (&'static str, usize)>,
    {
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

    /// A kernel that was loaded.
    ///
    /// # Panics
    /// If the table of kernels does not name it for this device.
    pub(super) fn kernel(&self, name: &'static str) -> sys::CUfunction {
        self.kernels[name].cu_function()
    }

    /// Whether what is queued with the kernels is being recorded.
    pub(super) fn is_capturing(&self) -> bool {
        self.is_capturing.load(Ordering::Relaxed)
    }

    pub(super) fn stream(&self, queue: Queue) -> sys::CUstream {
        match queue {
            Queue::Compute => self.compute.cu_stream(),
            Queue::Copies => self.copies.cu_stream(),
        }
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
