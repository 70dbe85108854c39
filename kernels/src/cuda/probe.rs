//! What CUDA devices this machine has.
//!
//! Promises: asking never panics, never links and takes no device memory.

use cudarc::driver::result::{self, DriverError, device as driver};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};

/// Why there is no CUDA device to compute on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoCuda {
    /// The driver's library is not installed.
    #[error("no CUDA driver (libcuda.so.1) on this machine")]
    NoDriver,
    /// The driver is there and sees no device.
    #[error("the CUDA driver sees no device")]
    NoDevice,
    /// The driver sees devices, but not this one.
    #[error("there is no CUDA device {ordinal}; the driver sees {count}, from 0 on")]
    NoSuchDevice {
        /// Which was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver failed.
    #[error("the CUDA driver failed in {call}: {message}")]
    Driver {
        /// The call.
        call: &'static str,
        /// What the driver said.
        message: String,
    },
}

/// The driver and its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuda {
    /// Newest CUDA version that the driver serves, major and minor.
    pub driver_version: (u32, u32),
    /// The devices, at least one; a device's index is its ordinal.
    pub devices: Vec<CudaDevice>,
}

/// One CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// What its maker calls it.
    pub name: String,
    /// All of its memory, used or not.
    pub memory_bytes: usize,
    /// Compute capability, major and minor: (9, 0) is Hopper.
    pub compute_capability: (u32, u32),
}

/// Asks the driver what devices there are. Creates no context, so it takes no device memory.
///
/// # Errors
/// [`NoCuda`] says why there is none.
pub fn probe() -> Result<Cuda, NoCuda> {
    // Every call of cudarc panics where the library is missing, so this one question comes first.
    // SAFETY: loading a library runs its initialisers; under these names it can only be NVIDIA's
    // driver.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoCuda::NoDriver);
    }
    result::init().map_err(|error| failed("cuInit", error))?;
    let mut version = 0;
    // SAFETY: the library is present; the call writes one int, to a place that outlives it.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    answer.result().map_err(|error| failed("cuDriverGetVersion", error))?;
    let version = u32::try_from(version).unwrap_or(0);
    let count = driver::get_count().map_err(|error| failed("cuDeviceGetCount", error))?;
    let devices = (0..count).map(describe).collect::<Result<Vec<_>, _>>()?;
    if devices.is_empty() {
        return Err(NoCuda::NoDevice);
    }
    // 13000 stands for 13.0, 12090 for 12.9.
    Ok(Cuda { driver_version: (version / 1000, version % 1000 / 10), devices })
}

fn describe(ordinal: i32) -> Result<CudaDevice, NoCuda> {
    let device = driver::get(ordinal).map_err(|error| failed("cuDeviceGet", error))?;
    let attribute = |attribute| {
        // SAFETY: `device` came from `driver::get`, which succeeded.
        let value = unsafe { driver::get_attribute(device, attribute) };
        value.map(|value| u32::try_from(value).unwrap_or(0)).map_err(|error| failed("cuDeviceGetAttribute", error))
    };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(CudaDevice {
        name: driver::get_name(device).map_err(|error| failed("cuDeviceGetName", error))?,
        // SAFETY: `device` came from `driver::get`, which succeeded.
        memory_bytes: unsafe { driver::total_mem(device) }.map_err(|error| failed("cuDeviceTotalMem", error))?,
        compute_capability: (major, minor),
    })
}

fn failed(call: &'static str, error: DriverError) -> NoCuda {
    if error.0 == CUresult::CUDA_ERROR_NO_DEVICE {
        return NoCuda::NoDevice;
    }
    NoCuda::Driver { call, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine with a GPU the devices make sense; on one without, the answer is a reason and
    /// no panic.
    #[test]
    fn the_probe_answers_on_any_machine() {
        match probe() {
            Ok(cuda) => {
                assert!(cuda.driver_version >= (11, 0), "{cuda:?}");
                assert!(!cuda.devices.is_empty());
                for device in &cuda.devices {
                    assert!(!device.name.is_empty() && device.memory_bytes >= 1 << 30, "{device:?}");
                    assert!(device.compute_capability >= (3, 0), "{device:?}");
                }
            }
            Err(reason) => assert!(!reason.to_string().is_empty()),
        }
        assert_eq!(probe(), probe());
    }

    #[test]
    fn no_device_is_told_from_a_failure() {
        assert_eq!(failed("cuInit", DriverError(CUresult::CUDA_ERROR_NO_DEVICE)), NoCuda::NoDevice);
    }
}
