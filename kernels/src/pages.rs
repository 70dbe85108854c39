//! Memory from the system: zeros at first, and on huge pages where the system has them.
//!
//! Owns: the mapping. Promises: what was never written reads as zero and takes no memory. Absent:
//! files.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use half::f16;
use memmap2::MmapMut;

/// A number of which any bits are a value.
///
/// # Safety
/// Any bits are a value of the type, it has no padding, and its alignment is at most that of a
/// page.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer without padding.
unsafe impl Plain for u8 {}
// SAFETY: any 32 bits are an f32.
unsafe impl Plain for f32 {}
// SAFETY: it is a transparent u16.
unsafe impl Plain for f16 {}

/// Numbers in memory of their own.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    bytes: MmapMut,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Plain> Pages<T> {
    /// `len` zeros, for `what`.
    ///
    /// # Panics
    /// If the system does not give the memory.
    pub(crate) fn new(len: usize, what: &str) -> Self {
        let wanted = len.checked_mul(size_of::<T>()).expect("fewer bytes than there are addresses");
        let bytes = MmapMut::map_anon(wanted.max(1));
        let bytes = bytes.unwrap_or_else(|error| panic!("the system does not give {wanted} bytes for {what}: {error}"));
        // Where the system has none, small pages serve as well, only slower.
        #[cfg(target_os = "linux")]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        Self { bytes, len, numbers: PhantomData }
    }
}

impl<T: Plain> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping begins at a page, so it is aligned; it has room for `len` numbers, of
        // which any bits are a value.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the mapping is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), self.len) }
    }
}
