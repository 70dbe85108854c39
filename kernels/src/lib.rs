//! Every operation of the GPT-OSS forward pass: slow reference twins, SIMD for the CPU, CUDA for
//! the GPU.
//!
//! Owns: all `unsafe` code of the project, which is SIMD, the thread pool's shared memory, file
//! mapping and CUDA. Promises: a fast kernel computes what its twin in [`mod@reference`] computes,
//! within the tolerance that its head names. On the CPU each output element comes from the same
//! sequence of operations whatever else is in the step, however many threads run, and however a
//! prompt was cut into slices. Absent on purpose: the order of operations in a model, checkpoints,
//! sequences, sampling, time.
//!
//! A wrong length or an index out of range handed to an operation is a bug of the caller and panics
//! with a sentence. What comes from outside, such as the bytes of a weight, is checked by a
//! constructor that returns an error.

pub mod cpu;
pub mod cuda;
pub mod heap;
pub mod kv;
pub mod mmap;
mod pages;
pub mod reference;
pub mod rope;
mod sync;
pub mod weights;
