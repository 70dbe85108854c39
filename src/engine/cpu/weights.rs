//! The model's weights as the kernels take them.
//!
//! Owns: matrices and experts, packed in the order in which they are read, and the small vectors in
//! f32. The embedding alone stays where the checkpoint has it. The checkpoint's pages are given
//! back as soon as they are packed, so that a model is in memory once. Packed weights may be kept
//! in a file ([`super::packed_file`]), which the next start maps.

use super::memory::{CpuOptions, matrix_bytes};
use super::packed_file::{self, Key, PackedFile};
use crate::batch::KvGroup;
use crate::engine::checkpoint::{Checkpoint, EMBEDDING, ExpertForm, FINAL_NORM, LoadProgress, OUTPUT, TensorBytes, in_layer};
use crate::engine::config::ModelConfig;
use antiphon_kernels::cpu::{Cpu, Format, Packed, PackedExperts};
use antiphon_kernels::mmap::MappedFile;
use antiphon_kernels::weights::{Bf16Matrix, Bf16Stack, Experts, Mxfp4Stack, SwiGlu};
use std::path::Path;
use std::sync::Arc;

/// Why a view of a checked tensor cannot fail.
const CHECKED: &str = "the checkpoint's layout has checked the shape of every tensor";

/// A bf16 matrix that stays in the checkpoint.
#[derive(Debug)]
pub(super) struct Matrix {
    bytes: TensorBytes,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// The matrix as a kernel takes it.
    pub(super) fn view(&self) -> Bf16Matrix<'_> {
        Bf16Matrix::new(&self.bytes, self.rows, self.cols).expect(CHECKED)
    }
}

/// A linear map: weight and, if the model has it, bias.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Packed,
    pub(super) bias: Option<Vec<f32>>,
}

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) group: KvGroup,
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys and values in one.
    pub(super) projections: Linear,
    pub(super) output: Linear,
    pub(super) sinks: Vec<f32>,
    pub(super) expert_norm: Vec<f32>,
    pub(super) router: Packed,
    pub(super) router_bias: Vec<f32>,
    pub(super) experts: PackedExperts,
}

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Vec<f32>,
    pub(super) output: Packed,
    /// The file that packed weights lie in, if they do.
    pub(super) file: Option<Arc<MappedFile>>,
}

/// Views the blocks, scales and biases of a layer's experts.
fn stack(tensors: &[TensorBytes; 3], [experts, rows, cols]: [usize; 3]) -> (Mxfp4Stack<'_>, Bf16Matrix<'_>) {
    let [blocks, scales, bias] = tensors;
    let stack = Mxfp4Stack::new(blocks, scales, experts, rows, cols).expect(CHECKED);
    (stack, Bf16Matrix::new(bias, experts, rows).expect(CHECKED))
}

/// Packs a checkpoint tensor by tensor.
struct Packer<'a> {
    checkpoint: &'a Checkpoint,
    cpu: &'a mut Cpu,
    dense: Format,
    /// What was packed before.
    packed: Option<PackedFile>,
    done_bytes: u64,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl Packer<'_> {
    /// Counts tensors that were packed, and gives their memory back.
    fn done(&mut self, tensors: &[&TensorBytes]) {
        for tensor in tensors {
            tensor.release();
            self.done_bytes += tensor.len() as u64;
        }
        (self.progress)(LoadProgress { done_bytes: self.done_bytes, total_bytes: self.checkpoint.tensor_bytes() });
    }

    /// Packs matrices of one width, one below the other.
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize, format: Format) -> Packed {
        if let Some(packed) = &mut self.packed {
            return packed.take(format, parts.iter().map(|(_, rows)| rows).sum(), cols);
        }
        let tensors: Vec<TensorBytes> = parts.iter().map(|(name, _)| self.checkpoint.tensor(name)).collect();
        let views = tensors.iter().zip(parts).map(|(bytes, (_, rows))| Bf16Matrix::new(bytes, *rows, cols).expect(CHECKED));
        let packed = self.cpu.pack(&views.collect::<Vec<_>>(), format);
        self.done(&tensors.iter().collect::<Vec<_>>());
        packed
    }

    /// Packs projections of attention.
    fn linear(&mut self, layer: usize, parts: &[(&str, usize)], cols: usize) -> Linear {
        let of = |name: &str, rest: &str| in_layer(layer, &format!("self_attn.{name}_proj.{rest}"));
        let weights: Vec<_> = parts.iter().map(|(name, rows)| (of(name, "weight"), *rows)).collect();
        let checkpoint = self.checkpoint;
        let bias = || parts.iter().flat_map(|(name, _)| checkpoint.vector(&of(name, "bias"))).collect();
        Linear { weight: self.matrices(&weights, cols, self.dense), bias: checkpoint.config().attention_bias.then(bias) }
    }

    /// Packs experts that are not quantised, as they are.
    fn dense_experts(&mut self, layer: usize) -> PackedExperts {
        let ModelConfig { hidden, intermediate, experts, swiglu_alpha, swiglu_limit, .. } = *self.checkpoint.config();
        let tensor = |rest: &str| self.checkpoint.tensor(&in_layer(layer, &format!("mlp.experts.{rest}")));
        let names = ["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"];
        let tensors = names.map(tensor);
        let [up, up_bias, low, low_bias] = &tensors;
        let swiglu = SwiGlu { alpha: swiglu_alpha, limit: swiglu_limit };
        let pair = |values, bias, rows, cols| {
            let stack = Bf16Stack::new(values, experts, rows, cols).expect(CHECKED);
            (stack, Bf16Matrix::new(bias, experts, rows).expect(CHECKED))
        };
        let (gate_up, down) = (pair(up, up_bias, 2 * intermediate, hidden), pair(low, low_bias, hidden, intermediate));
        let packed = match self.packed_experts(Format::Bf16) {
            Some([first, second]) => PackedExperts::new((first, gate_up.1), (second, down.1), swiglu),
            None => self.cpu.pack_dense_experts(gate_up, down, swiglu),
        };
        self.done(&tensors.each_ref());
        packed
    }

    /// The next layer's matrices of experts, if they were packed before.
    fn packed_experts(&mut self, format: Format) -> Option<[Packed; 2]> {
        let ModelConfig { hidden, intermediate, experts, .. } = *self.checkpoint.config();
        let packed = self.packed.as_mut()?;
        let first = packed.take(format, experts * 2 * intermediate, hidden);
        Some([first, packed.take(format, experts * hidden, intermediate)])
    }

    fn experts(&mut self, layer: usize) -> PackedExperts {
        if self.checkpoint.expert_form() == ExpertForm::Dense {
            return self.dense_experts(layer);
        }
        let ModelConfig { hidden, intermediate, experts, swiglu_alpha, swiglu_limit, .. } = *self.checkpoint.config();
        let tensors = |name: &str| {
            let tensor = |rest| self.checkpoint.tensor(&in_layer(layer, &format!("mlp.experts.{name}_proj_{rest}")));
            ["blocks", "scales", "bias"].map(tensor)
        };
        let (gate_up, down) = (tensors("gate_up"), tensors("down"));
        let swiglu = SwiGlu { alpha: swiglu_alpha, limit: swiglu_limit };
        let (up, up_bias) = stack(&gate_up, [experts, 2 * intermediate, hidden]);
        let (low, low_bias) = stack(&down, [experts, hidden, intermediate]);
        let packed = match self.packed_experts(Format::Mxfp4) {
            Some([first, second]) => PackedExperts::new((first, up_bias), (second, low_bias), swiglu),
            None => self.cpu.pack_experts(&Experts::new(up, up_bias, low, low_bias, swiglu).expect(CHECKED)),
        };
        self.done(&gate_up.iter().chain(&down).collect::<Vec<_>>());
        packed
    }

    fn layer(&mut self, layer: usize, group: KvGroup) -> Layer {
        let config = self.checkpoint.config();
        let (hidden, query, kv) = (config.hidden, config.query_width(), config.kv_width());
        let checkpoint = self.checkpoint;
        let vector = |rest: &str| checkpoint.vector(&in_layer(layer, rest));
        Layer {
            group,
            attention_norm: vector("input_layernorm.weight"),
            projections: self.linear(layer, &[("q", query), ("k", kv), ("v", kv)], hidden),
            output: self.linear(layer, &[("o", hidden)], query),
            sinks: vector("self_attn.sinks"),
            expert_norm: vector("post_attention_layernorm.weight"),
            // A token that goes to another expert is far off, and the router is small: it is never
            // rounded.
            router: self.matrices(&[(in_layer(layer, "mlp.router.weight"), config.experts)], hidden, Format::Bf16),
            router_bias: vector("mlp.router.bias"),
            experts: self.experts(layer),
        }
    }
}

impl Weights {
    /// Packs the tensors of `checkpoint` on the threads of `cpu`, and converts its vectors.
    pub(super) fn pack(
        checkpoint: &Checkpoint,
        options: &CpuOptions,
        cpu: &mut Cpu,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Self {
        let config = checkpoint.config();
        let folder = checkpoint.directory().filter(|_| options.keep_packed);
        let key = || Key::of(checkpoint, options.dense);
        let body_bytes = packed_file::body_bytes(matrix_bytes(checkpoint, options.dense));
        let packed = folder.and_then(|folder| PackedFile::open(folder, key(), body_bytes, options.threads));
        let file = packed.as_ref().map(|packed| Arc::clone(packed.file()));
        let mut packer = Packer { checkpoint, cpu, dense: options.dense, packed, done_bytes: 0, progress };
        let embedding = Matrix { bytes: checkpoint.tensor(EMBEDDING), rows: config.vocab_size, cols: config.hidden };
        // The largest matrix goes first: while it is packed it is in memory twice, and nothing else
        // is there yet.
        let output = if config.tied_embeddings { EMBEDDING } else { OUTPUT };
        let output = packer.matrices(&[(output.to_owned(), config.vocab_size)], config.hidden, options.dense);
        let layers = config.layers.iter().enumerate().map(|(layer, group)| packer.layer(layer, *group)).collect();
        // What is left is the embedding, of which a row is read now and then, and small vectors.
        let total_bytes = checkpoint.tensor_bytes();
        progress(LoadProgress { done_bytes: total_bytes, total_bytes });
        let weights = Self { embedding, layers, final_norm: checkpoint.vector(FINAL_NORM), output, file };
        if let (Some(folder), None) = (folder, &weights.file) {
            weights.keep(folder, key());
        }
        weights
    }

    /// Writes the packed weights into a file in `folder`; a failure is told and does no harm.
    fn keep(&self, folder: &Path, key: Key) {
        let place = folder.join(packed_file::FILE);
        match packed_file::write(folder, key, self.matrices()) {
            Ok(()) => tracing::info!(file = %place.display(), "kept the packed weights for the next start"),
            Err(error) => tracing::warn!("{} cannot be written, the next start packs anew: {error}", place.display()),
        }
    }

    /// Every packed matrix, in the order in which they are packed.
    fn matrices<'a>(&'a self) -> impl Iterator<Item = &'a Packed> + Clone {
        let of_layer = |layer: &'a Layer| {
            let [first, second] = layer.experts.matrices();
            [&layer.projections.weight, &layer.output.weight, &layer.router, first, second]
        };
        std::iter::once(&self.output).chain(self.layers.iter().flat_map(of_layer))
    }
}
