//! The slow twin of every operation of the forward pass: plain f32 loops, one function an
//! operation.
//!
//! Read this to learn what the model computes; read `cpu` to learn how it is computed fast. A twin
//! takes weights already widened to f32, sums in the order of its loops, and is used by nothing but
//! tests and a reference forward pass.
//!
//! Source of all: OpenAI's gpt-oss model card and reference implementation; `transformers`'
//! `modeling_gpt_oss.py`.

mod attention;
mod dense;
mod dequantise;
mod experts;

pub use attention::{attention, rotary};
pub use dense::{add, embed, linear, log_softmax, rms_norm};
pub use dequantise::{bf16_to_f32, int8_activations, int8_weights, int16_activations, mxfp4_to_f32};
pub use experts::{expert, experts, route, swiglu};

#[cfg(test)]
mod tests;
