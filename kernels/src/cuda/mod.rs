//! CUDA devices: what this machine has, memory on them, and one safe launch function for each
//! kernel of `kernels/cuda`.
//!
//! Promises: asking never panics and never links; the driver's library is looked for at run time,
//! so one binary serves machines with and without a GPU. A launch function checks lengths before it
//! launches, and launches are in order. Absent: the order of operations in a model. What indices on
//! the device hold is the caller's: the engine checks a batch before it sends it.

mod attention;
pub mod code;
mod copies;
mod device;
mod error;
mod experts;
mod kernels;
mod launch;
mod linear;
mod memory;
mod nccl;
mod operands;
mod probe;
mod rope;
mod route;
mod rows;
mod sample;
pub mod tile;
mod wgmma;

pub use attention::{
    AttentionItem, AttentionOperands, CHUNK_TOKENS, DECODE_ROWS, HEAD_DIM_MAX, PREFILL_ROWS, Split, Work, attention,
    attention_combine, partial_values,
};
pub use device::{Device, Event, Graph, Queue};
pub use error::CudaError;
pub use experts::{ExpertRegions, experts};
pub use linear::{Output, linear};
pub use memory::{Arena, Element, Pinned, Region, region_bytes};
pub use nccl::{Communicator, nccl_version};
pub use operands::{Activations, Arranged, F16Tiles, Mxfp4Tiles};
pub use probe::{Cuda, CudaDevice, NoCuda, probe};
pub use rope::{AngleTable, HeadShape, KvRegion, rope_store};
pub use route::{EXPERTS_MAX, ExpertShare, RouteRegions, RouterWeights, route};
pub use rows::{HIDDEN_MAX, Parts, combine_norm, drawn_token, embed, sum_routed};
pub use sample::{LogitEdit, NOT_FINITE, REPORT_WORDS, RowDraw, SampleOperands, TOP_MAX, sample};
pub use wgmma::{MatrixInstruction, WGMMA_TOKENS};

#[cfg(test)]
mod kernel_tests;
