//! Copies between the host and a device, and on it.
//!
//! Promises: a copy stays within both of its sides, and runs in the order of its queue. Absent: the
//! memory itself.

use super::device::{Device, Queue};
use super::error::CudaError;
use super::memory::{Element, Pinned, Region};
use cudarc::driver::{result, sys};
use std::ops::Range;

impl Device {
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
        assert!(pinned.is_of(self.context()), "pinned memory of another device");
        assert!(!self.is_capturing(), "a copy of pinned memory cannot be captured");
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
}
