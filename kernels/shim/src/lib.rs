//! The CUDA kernels on a CPU, under the real host code.
//!
//! Owns: stand-ins for the driver and for NVRTC, which cudarc loads as if they were NVIDIA's; a
//! fiber for every CUDA thread, scheduled in several orders; a checker of memory accesses and
//! races. Promises: a test that takes a [`Device`] has it for itself. Absent: everything that needs
//! silicon: speed, the memory model's reordering, the tensor cores' own rounding.
//!
//! `ANTIPHON_CUDA=driver` makes the same tests run on the machine's own driver and device 0, one
//! after another; schedules and planted faults do nothing there, and [`Device::real`] tells. A test
//! that then has nothing to check says so ([`skipped`]).

mod api;
pub mod compile;
mod device;
mod planted;
mod stand_in;

pub use device::{CHECKED_SCHEDULES, Device, Fault, Order, SCHEDULES, Schedule, device, devices, on_the_driver, skipped};
pub use planted::{Planted, library_image, load_library};
pub use stand_in::stand_in;
