//! Two sample kernels, launched as the product launches its own, and what they should give.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use antiphon_cuda_shim::{Device, SCHEDULES, Schedule, device, load_library};
use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};

pub(crate) fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

pub(crate) fn image() -> Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| load_library("samples", &folder(), None)).clone()
}

/// `length` values between -1 and 1.
pub(crate) fn values(length: usize, seed: u64) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bf16::from_f32((state >> 40) as f32 / 8_388_608.0 - 1.0)
    };
    (0..length).map(|_| next()).collect()
}

/// The same as what the tensor cores multiply.
pub(crate) fn factors(length: usize, seed: u64) -> Vec<f16> {
    values(length, seed).into_iter().map(|value| f16::from_f32(value.to_f32())).collect()
}

pub(crate) struct Samples {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    norm: Option<CudaFunction>,
    product: Option<CudaFunction>,
}

pub(crate) const PRODUCT_BYTES: u32 = 2 * 2 * 64 * 40 * 2;

impl Samples {
    pub(crate) fn new(device: &Device, image: Vec<u8>) -> Self {
        let context = CudaContext::new(device.ordinal()).expect("a context");
        // SAFETY: all work goes to one stream, so nothing needs to be ordered by events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().expect("a stream");
        let module = context.load_module(Ptx::from_binary(image)).expect("a module");
        let function = |name| module.load_function(name).ok();
        Self { norm: function("sample_norm"), product: function("sample_product"), context, stream }
    }

    pub(crate) fn norm(
        &self,
        y: &mut CudaSlice<bf16>,
        x: &CudaSlice<bf16>,
        w: &CudaSlice<bf16>,
        [rows, columns]: [usize; 2],
    ) -> Result<(), DriverError> {
        let grid = LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
        let mut launch = self.stream.launch_builder(self.norm.as_ref().expect("loaded"));
        let columns = columns as i32;
        // SAFETY: the arguments are those of sample_norm. That their lengths fit is what some tests break
        // on purpose.
        unsafe { launch.arg(y).arg(x).arg(w).arg(&columns).arg(&1e-5_f32).launch(grid) }.map(drop)
    }

    pub(crate) fn product(
        &self,
        c: &mut CudaSlice<bf16>,
        a: &CudaSlice<f16>,
        b: &CudaSlice<f16>,
        [m, n, k]: [usize; 3],
    ) -> Result<(), DriverError> {
        let grid_dim = ((n / 64) as u32, m.div_ceil(64) as u32, 1);
        let grid = LaunchConfig { grid_dim, block_dim: (128, 1, 1), shared_mem_bytes: PRODUCT_BYTES };
        let mut launch = self.stream.launch_builder(self.product.as_ref().expect("loaded"));
        let [m, n, k] = [m, n, k].map(|size| size as i32);
        // SAFETY: the arguments are those of sample_product.
        unsafe { launch.arg(c).arg(a).arg(b).arg(&m).arg(&n).arg(&k).launch(grid) }.map(drop)
    }

    /// Runs the norm over random rows under `schedule`: its bits.
    pub(crate) fn norm_once(&self, device: &Device, schedule: Schedule, shape: [usize; 2]) -> Result<Vec<bf16>, DriverError> {
        device.schedule(schedule);
        let [rows, columns] = shape;
        let x = self.stream.clone_htod(&values(rows * columns, 1))?;
        let w = self.stream.clone_htod(&values(columns, 2))?;
        let mut y = self.stream.alloc_zeros::<bf16>(rows * columns)?;
        self.norm(&mut y, &x, &w, shape)?;
        self.stream.clone_dtoh(&y)
    }

    pub(crate) fn product_once(
        &self,
        device: &Device,
        schedule: Schedule,
        shape: [usize; 3],
    ) -> Result<Vec<bf16>, DriverError> {
        device.schedule(schedule);
        let [m, n, k] = shape;
        let a = self.stream.clone_htod(&factors(m * k, 3))?;
        let b = self.stream.clone_htod(&factors(n * k, 4))?;
        let mut c = self.stream.alloc_zeros::<bf16>(m * n)?;
        self.product(&mut c, &a, &b, shape)?;
        self.stream.clone_dtoh(&c)
    }
}

/// Plain loops for `norm_once`.
pub(crate) fn norm_wanted([rows, columns]: [usize; 2]) -> Vec<f32> {
    let (x, w) = (values(rows * columns, 1), values(columns, 2));
    x.chunks(columns)
        .flat_map(|row| {
            let mean = row.iter().map(|v| v.to_f32() * v.to_f32()).sum::<f32>() / columns as f32;
            let factor = (mean + 1e-5).sqrt().recip();
            row.iter().zip(&w).map(move |(v, w)| v.to_f32() * factor * w.to_f32()).collect::<Vec<_>>()
        })
        .collect()
}

/// Plain loops for `product_once`.
pub(crate) fn product_wanted([m, n, k]: [usize; 3]) -> Vec<f32> {
    let (a, b) = (factors(m * k, 3), factors(n * k, 4));
    let at = |r: usize, c: usize| (0..k).map(|i| a[r * k + i].to_f32() * b[c * k + i].to_f32()).sum();
    (0..m * n).map(|i| at(i / n, i % n)).collect()
}

/// Whether every value is as wanted, within bf16's rounding.
pub(crate) fn close(got: &[bf16], wanted: &[f32]) -> bool {
    got.len() == wanted.len() && got.iter().zip(wanted).all(|(g, w)| (g.to_f32() - w).abs() <= 0.01 * (0.1 + w.abs()))
}

fn under_all_schedules(run: impl Fn(&Samples, &Device, Schedule) -> Vec<bf16>, wanted: &[f32], checked: bool) {
    let device = device();
    let samples = Samples::new(&device, image());
    device.check(checked);
    let mut first: Option<Vec<bf16>> = None;
    for schedule in SCHEDULES {
        let got = run(&samples, &device, schedule);
        assert!(close(&got, wanted), "{schedule:?} differs from the plain loops");
        let first = first.get_or_insert_with(|| got.clone());
        assert!(first.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "{schedule:?} changes the bits");
    }
    assert_eq!(device.races(), 0, "{}", device.message());
}

#[test]
fn a_norm_is_right_under_every_schedule() {
    for shape in [[1, 1], [3, 100], [5, 2880]] {
        let wanted = norm_wanted(shape);
        under_all_schedules(|samples, device, s| samples.norm_once(device, s, shape).expect("runs"), &wanted, false);
    }
}

#[test]
fn a_product_is_right_under_every_schedule() {
    for shape in [[1, 64, 32], [70, 128, 96]] {
        let wanted = product_wanted(shape);
        under_all_schedules(|samples, device, s| samples.product_once(device, s, shape).expect("runs"), &wanted, false);
    }
}

#[test]
fn the_checker_finds_nothing_in_what_is_right() {
    let shape = [3, 300];
    under_all_schedules(|samples, device, s| samples.norm_once(device, s, shape).expect("runs"), &norm_wanted(shape), true);
    let shape = [70, 128, 96];
    under_all_schedules(
        |samples, device, s| samples.product_once(device, s, shape).expect("runs"),
        &product_wanted(shape),
        true,
    );
}

#[test]
fn a_product_needs_the_shared_memory_that_it_asked_for() {
    let device = device();
    let samples = Samples::new(&device, image());
    let function = samples.product.as_ref().expect("loaded");
    let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(most, 1024).expect("a small size is allowed");
    let error = samples.product_once(&device, SCHEDULES[0], [1, 64, 32]).expect_err("too much shared memory");
    assert!(error.to_string().contains("20480 bytes of shared memory, 1024 allowed"), "{error}");
}
